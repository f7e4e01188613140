/**
 * One open project: its folder and its database (node:sqlite). Opening, creating, locking, migrating, and turning SQLite's
 * errors into words. Knows no table but `settings`; the queries live with what they serve (images.ts, review.ts, ...).
 *
 * - `locking_mode = EXCLUSIVE`: the operating system holds the lock for this process and drops it when the process ends,
 *   however it ends, so a second app is refused and nothing stale is left behind after kill -9.
 * - `journal_mode = WAL`, `synchronous = FULL`: a committed decision is on the disk before it is answered. NORMAL would
 *   already survive kill -9; FULL also survives a power cut, for one fsync per decision or batch.
 */
import { randomUUID } from 'node:crypto';
import { accessSync, constants, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, statfsSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { pathToFileURL } from 'node:url';
import { AppError } from '../contract/index.ts';
import { migrations } from './migrations/index.ts';

/** SQLite's application_id of our files: "Ptch". */
const applicationId = 0x50746368;
export const databaseName = 'project.sqlite';
/** Under a second to check whole; larger files are checked as they are read. */
const quickCheckBytes = 32 * 2 ** 20;

type Value = SQLInputValue;

/** Reads. A function that takes a Reader cannot write. */
export interface Reader {
  all<T>(sql: string, ...values: Value[]): T[];
  get<T>(sql: string, ...values: Value[]): T | undefined;
}

/** Reads and writes inside one transaction; only `Project.write` hands it out. */
export interface Writer extends Reader {
  run(sql: string, ...values: Value[]): { changes: number; id: number };
}

export interface ProjectFacts {
  readonly project_id: string;
  readonly name: string;
  readonly image_folder: string;
  readonly created_at: string;
}

export class Project implements Reader {
  /** Absolute path of the project folder. */
  readonly dir: string;
  readonly readOnly: boolean;
  readonly facts: ProjectFacts;
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  /** Folder of a read-only project's copy, see `openReadOnly`. */
  readonly #copy: string | null;

  private constructor(dir: string, db: DatabaseSync, readOnly: boolean, copy: string | null) {
    this.dir = dir;
    this.readOnly = readOnly;
    this.#db = db;
    this.#copy = copy;
    this.facts = this.get<ProjectFacts>('SELECT project_id, name, image_folder, created_at FROM settings')!;
  }

  /**
   * Makes `dir` and the database in it, and opens it.
   * @throws AppError project-exists, project-read-only, disk-full
   */
  static create(dir: string, name: string, imageFolder: string): Project {
    try {
      mkdirSync(dir);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      throw new AppError(
        'project-exists',
        `There is already a folder "${basename(dir)}" at ${dir}.`,
        'Choose another name, or open that project.',
      );
    }
    try {
      return readable(dir, () => {
        const db = connect(dir);
        try {
          migrate(db, dir);
          db.prepare('INSERT INTO settings (id, project_id, name, image_folder, created_at) VALUES (1, ?, ?, ?, ?)').run(
            randomUUID(),
            name,
            imageFolder,
            new Date().toISOString(),
          );
          return new Project(dir, db, false, null);
        } catch (error) {
          db.close();
          throw error;
        }
      });
    } catch (error) {
      rmSync(dir, { recursive: true, force: true });
      throw error;
    }
  }

  /**
   * Opens the project in `dir`; without permission to write it opens for reading, and says so in `readOnly`.
   * @throws AppError project-not-found, project-in-use, project-newer, project-damaged
   */
  static open(dir: string): Project {
    const file = join(dir, databaseName);
    if (!existsSync(file)) {
      throw new AppError(
        'project-not-found',
        `${dir} has no ${databaseName}.`,
        'Choose the folder that holds it, or create a new project.',
      );
    }
    return readable(dir, () => {
      const readOnly = !writable(dir) || !writable(file);
      let { db, copy }: Opened = readOnly ? openReadOnly(dir) : { db: connect(dir), copy: null };
      try {
        checkIdentity(db, dir);
        if (!readOnly) migrate(db, dir);
        else if (versionOf(db) < migrations.length) ({ db, copy } = openMigratedCopy(dir, { db, copy }));
        const project = new Project(dir, db, readOnly, copy);
        // A run that was going on when the host ended was stopped by that; it can be resumed.
        if (!readOnly) project.write((w) => w.run("UPDATE runs SET state = 'stopped' WHERE state = 'running'"));
        return project;
      } catch (error) {
        db.close();
        if (copy) rmSync(copy, { recursive: true, force: true });
        throw error;
      }
    });
  }

  all<T>(sql: string, ...values: Value[]): T[] {
    return readable(this.dir, () => this.#prepare(sql).all(...values) as T[]);
  }

  get<T>(sql: string, ...values: Value[]): T | undefined {
    return readable(this.dir, () => this.#prepare(sql).get(...values) as T | undefined);
  }

  /**
   * Runs `body` in one transaction: all of it is on the disk when this returns, or none of it.
   * @throws AppError project-read-only, disk-full, and whatever body throws
   */
  write<T>(body: (writer: Writer) => T): T {
    if (this.readOnly) throw readOnlyError(this.dir);
    const writer: Writer = {
      all: (sql, ...values) => this.all(sql, ...values),
      get: (sql, ...values) => this.get(sql, ...values),
      run: (sql, ...values) => {
        const result = this.#prepare(sql).run(...values);
        return { changes: Number(result.changes), id: Number(result.lastInsertRowid) };
      },
    };
    return readable(this.dir, () => {
      this.#db.exec('BEGIN IMMEDIATE');
      try {
        const result = body(writer);
        this.#db.exec('COMMIT');
        return result;
      } catch (error) {
        // A full disk may have rolled back already.
        if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
        throw error;
      }
    });
  }

  close(): void {
    if (!this.#db.isOpen) return;
    this.#statements.clear();
    this.#db.close();
    if (this.#copy) rmSync(this.#copy, { recursive: true, force: true });
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (!statement) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}

function connect(dir: string): DatabaseSync {
  const db = new DatabaseSync(join(dir, databaseName), { timeout: 0, enableForeignKeyConstraints: true });
  try {
    // Set before the first access: then WAL needs no shared-memory file, and the first read takes the lock.
    db.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY');
    return db;
  } catch (error) {
    db.close();
    throw error;
  }
}

interface Opened {
  readonly db: DatabaseSync;
  /** Folder of the copy that is open instead of the project's own file. */
  readonly copy: string | null;
}

/** A read-only project of an older schema: its queries need the new one, which only a copy can be brought to. */
function openMigratedCopy(dir: string, older: Opened): Opened {
  const copy = mkdtempSync(join(tmpdir(), 'patchwise-read-'));
  let db: DatabaseSync | null = null;
  try {
    for (const name of [databaseName, `${databaseName}-wal`])
      if (existsSync(join(dir, name))) copyFileSync(join(dir, name), join(copy, name));
    db = connect(copy);
    migrate(db, copy);
  } catch (error) {
    db?.close();
    rmSync(copy, { recursive: true, force: true });
    throw error;
  }
  older.db.close();
  if (older.copy) rmSync(older.copy, { recursive: true, force: true });
  return { db, copy };
}

/**
 * A WAL database on a read-only place opens as `immutable` after a clean close. When the host was killed before, the last
 * decisions are still in the -wal file, which `immutable` would not read: then a copy of both is opened.
 */
function openReadOnly(dir: string): Opened {
  const file = join(dir, databaseName);
  const open = (path: string | URL) => {
    const db = new DatabaseSync(path, { readOnly: true, timeout: 0 });
    try {
      db.prepare('SELECT count(*) FROM sqlite_schema').get();
      return db;
    } catch (error) {
      db.close();
      throw error;
    }
  };
  try {
    return { db: open(file), copy: null };
  } catch (error) {
    if (primaryCode(error) !== 14) throw error; // 14 SQLITE_CANTOPEN: WAL wants to make its -shm file
  }
  const wal = `${file}-wal`;
  if (!existsSync(wal) || statSync(wal).size === 0) {
    const url = pathToFileURL(file);
    url.search = '?immutable=1';
    return { db: open(url), copy: null };
  }
  const copy = mkdtempSync(join(tmpdir(), 'patchwise-read-'));
  try {
    copyFileSync(file, join(copy, databaseName));
    copyFileSync(wal, join(copy, `${databaseName}-wal`));
    return { db: open(join(copy, databaseName)), copy };
  } catch (error) {
    rmSync(copy, { recursive: true, force: true });
    throw error;
  }
}

function checkIdentity(db: DatabaseSync, dir: string): void {
  const pragma = (name: string) => Number(Object.values(db.prepare(`PRAGMA ${name}`).get()!)[0]);
  const version = pragma('user_version');
  if (pragma('application_id') !== applicationId || version === 0) {
    throw new AppError(
      'project-damaged',
      `${join(dir, databaseName)} is not a Patchwise project.`,
      'Choose another folder; this one was left untouched.',
    );
  }
  if (version > migrations.length) {
    throw new AppError(
      'project-newer',
      `${dir} was made by a newer Patchwise (project version ${version}; this one knows up to ${migrations.length}).`,
      'Update Patchwise, then open the project again. It was left untouched.',
    );
  }
  if (statSync(join(dir, databaseName)).size <= quickCheckBytes) {
    const found = db.prepare('PRAGMA quick_check(1)').get() as { quick_check: string };
    if (found.quick_check !== 'ok') throw damagedError(dir, found.quick_check);
  }
}

/** Only after `checkIdentity`: a foreign or newer file is left as it is. */
function migrate(db: DatabaseSync, dir: string): void {
  db.exec('PRAGMA journal_mode = WAL');
  const version = versionOf(db);
  if (version === migrations.length) return;
  try {
    db.exec('BEGIN IMMEDIATE');
    for (const sql of migrations.slice(version)) db.exec(sql);
    db.exec(`PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${migrations.length}`);
    db.exec('COMMIT');
  } catch (error) {
    if (db.isTransaction) db.exec('ROLLBACK');
    throw appError(error, dir);
  }
}

function versionOf(db: DatabaseSync): number {
  return (db.prepare('PRAGMA user_version').get() as { user_version: number }).user_version;
}

function writable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'EROFS' || code === 'EACCES' || code === 'EPERM') return false;
    throw error;
  }
}

// --- errors -----------------------------------------------------------------------------------------------------------

function readable<T>(dir: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw appError(error, dir);
  }
}

/** The low byte of SQLite's extended result code; null for other errors. */
function primaryCode(error: unknown): number | null {
  const code = (error as { errcode?: unknown } | null)?.errcode;
  return typeof code === 'number' ? code & 0xff : null;
}

/** SQLite's errors in words (sqlite.org/rescode.html); others pass through. */
function appError(error: unknown, dir: string): unknown {
  const text = error instanceof Error ? error.message : String(error);
  switch (primaryCode(error)) {
    case 5: // BUSY
    case 6: // LOCKED
      return new AppError(
        'project-in-use',
        `${dir} is open in another Patchwise.`,
        'Close it there first. It opens here as soon as that program has ended.',
        {
          cause: error,
        },
      );
    case 8: // READONLY
      return readOnlyError(dir, error);
    case 13: // FULL
      return fullError(dir, error);
    case 10: // IOERR: what it was about is only known to the file system
    case 14: // CANTOPEN
      if (freeBytes(dir) === 0) return fullError(dir, error);
      return primaryCode(error) === 14 ? readOnlyError(dir, error) : damagedError(dir, text, error);
    case 11: // CORRUPT
    case 26: // NOTADB
      return damagedError(dir, text, error);
    default:
      return error;
  }
}

function freeBytes(dir: string): number | null {
  try {
    const { bavail, bsize } = statfsSync(dir);
    return bavail * bsize;
  } catch {
    return null; // not told; then the disk is not what we blame
  }
}

function readOnlyError(dir: string, cause?: unknown): AppError {
  return new AppError(
    'project-read-only',
    `There is no permission to write to ${dir}.`,
    'Copy the project to a folder you may write to, and open it there.',
    { cause },
  );
}

function fullError(dir: string, cause: unknown): AppError {
  return new AppError(
    'disk-full',
    `The disk that holds ${dir} is full.`,
    'Free some space and do it again; everything decided before is kept.',
    { cause },
  );
}

function damagedError(dir: string, what: string, cause?: unknown): AppError {
  return new AppError(
    'project-damaged',
    `${join(dir, databaseName)} is damaged: ${what}.`,
    'Put a copy of the project from a backup in its place. The file was left as it is.',
    {
      cause,
    },
  );
}
