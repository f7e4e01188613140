/**
 * Folders the page may see: the roots named at start and what the native dialog returned, as opaque ids. The page never
 * sends a path; an id exists only for a folder that was handed out, and what lies outside every root is never handed out,
 * not even through a link.
 */
import { createHmac, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { opendir, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { AppError, type FileEntry, type FolderEntry } from '../contract/index.ts';
import { databaseName } from './project.ts';

const imageName = /\.(jpe?g|png|webp|tiff?|bmp|gif)$/i;
const maxCounted = 1000;
/** What weights are called; what a file really is, its reader tells. */
const weightsName = /\.(pth|pt|bin|ckpt|safetensors)$/i;

/** True when `path` is `folder` or below it. Both absolute and free of links. */
export function isInside(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way === '' || (way !== '..' && !way.startsWith(`..${sep}`) && resolve(folder, way) === path && !/^[a-z]:/i.test(way));
}

export class Folders {
  readonly #key = randomBytes(32);
  /** Id to real path, for every folder handed out. */
  readonly #paths = new Map<string, string>();
  /** The same for files of weights; a folder's id is none of a file's. */
  readonly #files = new Map<string, string>();
  /** Real paths that everything handed out lies in. */
  readonly #roots: string[] = [];
  #named: string[] = [];

  /** @param roots folders named on the command line; one that does not exist is an error at once */
  async allow(roots: readonly string[]): Promise<void> {
    this.#named = await Promise.all(roots.map(real));
    this.#roots.push(...this.#named);
  }

  async roots(): Promise<FolderEntry[]> {
    return Promise.all(this.#named.map((path) => this.#entry(path)));
  }

  /** A folder from the native dialog: from now on allowed like a root. */
  async chosen(path: string): Promise<FolderEntry> {
    const folder = await real(path);
    if (!this.#roots.includes(folder)) this.#roots.push(folder);
    return this.#entry(folder);
  }

  /** @throws AppError bad-input for an id that was not handed out in this launch */
  path(id: string): string {
    const path = this.#paths.get(id);
    if (path === undefined) throw new AppError('bad-input', `There is no folder "${id}".`, 'Reload the page and choose the folder again.');
    return path;
  }

  /** @throws AppError bad-input, folder-unreadable */
  async children(id: string): Promise<{ folder: FolderEntry; parentId: string | null; children: FolderEntry[] }> {
    const path = this.path(id);
    const { folders } = await list(path);
    const inside: string[] = [];
    for (const name of folders) {
      if (name.startsWith('.')) continue;
      const child = await realpath(join(path, name)).catch(() => null); // a broken or circular link leads nowhere
      if (child === null || !this.#allowed(child) || inside.includes(child)) continue;
      if ((await stat(child).catch(() => null))?.isDirectory()) inside.push(child);
    }
    const children = await Promise.all(inside.map((child) => this.#entry(child)));
    const parent = dirname(path);
    return {
      folder: await this.#entry(path),
      parentId: parent !== path && this.#allowed(parent) ? this.#id(parent) : null,
      children: children.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })),
    };
  }

  /** A file from the native dialog or the command line. @throws AppError weights-unreadable when it is not there */
  async chosenFile(path: string): Promise<FileEntry> {
    const file = await realpath(path).catch((error: unknown) => {
      throw new AppError('weights-unreadable', `${path} is not there.`, 'Check the name, or whether its disk is connected.', {
        cause: error,
      });
    });
    return this.#fileEntry(file, (await stat(file)).size);
  }

  /** Files in a folder that may be weights. @throws AppError bad-input, folder-unreadable */
  async files(id: string): Promise<FileEntry[]> {
    const path = this.path(id);
    const found: FileEntry[] = [];
    try {
      for await (const { name } of await opendir(path)) {
        if (name.startsWith('.') || !weightsName.test(name)) continue;
        const file = await realpath(join(path, name)).catch(() => null);
        const facts = file === null || !this.#allowed(file) ? null : await stat(file).catch(() => null);
        if (facts?.isFile()) found.push({ ...this.#fileEntry(file!, facts.size), name });
      }
    } catch (error) {
      throw unreadable(path, error);
    }
    return found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  }

  /** @throws AppError bad-input for an id that was not handed out in this launch */
  file(id: string): string {
    const path = this.#files.get(id);
    if (path === undefined) throw new AppError('bad-input', `There is no file "${id}".`, 'Reload the page and choose the file again.');
    return path;
  }

  #fileEntry(path: string, bytes: number): FileEntry {
    const id = createHmac('sha256', this.#key).update(`file ${path}`).digest('hex').slice(0, 24);
    this.#files.set(id, path);
    return { id, name: basename(path), bytes };
  }

  #allowed(path: string): boolean {
    return this.#roots.some((root) => isInside(path, root));
  }

  #id(path: string): string {
    const id = createHmac('sha256', this.#key).update(path).digest('hex').slice(0, 24);
    this.#paths.set(id, path);
    return id;
  }

  /** A folder that cannot be read is listed, empty; opening it says why. */
  async #entry(path: string): Promise<FolderEntry> {
    const { folders, images } = await list(path).catch(() => ({ folders: [] as string[], images: 0 }));
    const root = this.#roots.filter((r) => isInside(path, r)).sort((a, b) => a.length - b.length)[0] ?? path;
    const way = relative(root, path);
    return {
      id: this.#id(path),
      name: basename(path) || path,
      label: [basename(root) || root, ...(way ? way.split(sep) : [])].join(' / '),
      hasFolders: folders.some((name) => !name.startsWith('.')),
      imageFiles: images,
      isProject: existsSync(join(path, databaseName)),
    };
  }
}

async function list(path: string): Promise<{ folders: string[]; images: number }> {
  const folders: string[] = [];
  let images = 0;
  try {
    for await (const entry of await opendir(path, { bufferSize: 256 })) {
      if (entry.isDirectory()) folders.push(entry.name);
      else if (entry.isSymbolicLink() && !imageName.test(entry.name))
        folders.push(entry.name); // `children` follows it
      else if (images < maxCounted && imageName.test(entry.name)) images++;
    }
  } catch (error) {
    throw unreadable(path, error);
  }
  return { folders, images };
}

async function real(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, cause: unknown): AppError {
  const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
  return new AppError(
    'folder-unreadable',
    `The folder ${path} cannot be read (${reason}).`,
    'Check that it is there and that you may open it, or choose another.',
    { cause },
  );
}
