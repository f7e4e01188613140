/**
 * What the user's own config folder holds: recent projects, the settings of the app and the port of the last launch.
 * Versioned JSON, replaced atomically. Not project data: a project knows nothing of it, and losing it loses no work.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { RecentProject, Settings } from '../contract/index.ts';

const version = 1;
const maxRecent = 30;
const defaultSettings: Settings = { reviewer: '', perReviewerFigures: false, theme: 'system' };

/** PATCHWISE_CONFIG_DIR, else the system's place for an app's own files. */
export function defaultConfigDir(env: NodeJS.ProcessEnv = process.env, platform: NodeJS.Platform = process.platform): string {
  if (env['PATCHWISE_CONFIG_DIR']) return env['PATCHWISE_CONFIG_DIR'];
  if (platform === 'win32') return join(env['APPDATA'] ?? join(homedir(), 'AppData', 'Roaming'), 'Patchwise');
  if (platform === 'darwin') return join(homedir(), 'Library', 'Application Support', 'Patchwise');
  return join(env['XDG_CONFIG_HOME'] ?? join(homedir(), '.config'), 'patchwise');
}

export class UserConfig {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Where a worker remembers which GPU drivers it has checked; only the path is this file's. */
  get gpuChecks(): string {
    return join(this.#dir, 'gpu-checks.json');
  }

  settings(): Settings {
    const read = this.#read<Partial<Settings>>('settings.json') ?? {};
    return {
      reviewer: typeof read.reviewer === 'string' ? read.reviewer : defaultSettings.reviewer,
      perReviewerFigures: read.perReviewerFigures === true,
      theme: read.theme === 'light' || read.theme === 'dark' ? read.theme : defaultSettings.theme,
    };
  }

  saveSettings(settings: Settings): void {
    this.#write('settings.json', settings);
  }

  /** Newest first; projects whose folder is gone are left out, not forgotten: a drive may come back. */
  recent(): RecentProject[] {
    return this.#recent().filter((project) => existsSync(project.location));
  }

  /** Path of a recent project; undefined when the id is unknown. */
  locationOf(id: string): string | undefined {
    return this.#recent().find((project) => project.id === id)?.location;
  }

  remember(name: string, location: string): void {
    const id = createHash('sha256').update(location).digest('hex').slice(0, 16);
    const others = this.#recent().filter((project) => project.id !== id);
    this.#write('recent.json', { projects: [{ id, name, location, openedAt: new Date().toISOString() }, ...others].slice(0, maxRecent) });
  }

  /** Of the last launch; null before the first. */
  port(): number | null {
    const port = this.#read<{ port?: unknown }>('port.json')?.port;
    return typeof port === 'number' && Number.isInteger(port) && port > 0 && port < 65536 ? port : null;
  }

  savePort(port: number): void {
    if (port !== this.port()) this.#write('port.json', { port });
  }

  #recent(): RecentProject[] {
    const projects = this.#read<{ projects?: unknown }>('recent.json')?.projects;
    if (!Array.isArray(projects)) return [];
    return projects.filter((p): p is RecentProject =>
      ['id', 'name', 'location', 'openedAt'].every((key) => typeof (p as Record<string, unknown> | null)?.[key] === 'string'),
    );
  }

  /** Null when absent, unreadable as JSON, or of another version. */
  #read<T>(name: string): T | null {
    const parsed = this.#parsed<T>(name);
    return parsed?.version === version ? parsed : null;
  }

  #parsed<T>(name: string): (T & { version?: unknown }) | null {
    try {
      return JSON.parse(readFileSync(join(this.#dir, name), 'utf8')) as (T & { version?: unknown }) | null;
    } catch (error) {
      if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }

  /** A file of a newer Patchwise is left to it. */
  #write(name: string, content: object): void {
    const present = this.#parsed(name)?.version;
    if (typeof present === 'number' && present > version) return;
    mkdirSync(this.#dir, { recursive: true });
    const file = join(this.#dir, name);
    const temporary = `${file}.${process.pid}.tmp`;
    try {
      writeFileSync(temporary, `${JSON.stringify({ version, ...content }, null, 2)}\n`, { mode: 0o600 });
      renameSync(temporary, file);
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
  }
}
