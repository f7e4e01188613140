// The files below a folder, each real folder once, links followed without walking in circles. Lists; opens nothing.
import type { Dirent, Stats } from 'node:fs';
import * as nodeFs from 'node:fs/promises';
import path from 'node:path';
import { AppError, type ImageProblem } from '../contract/index.ts';

/** The calls that a scan makes, all of them reading; a stand-in serves tests of what root cannot be refused. */
export interface ReadFs {
  readdir(folder: string, options: { withFileTypes: true }): Promise<Dirent[]>;
  realpath(file: string): Promise<string>;
  stat(file: string): Promise<Stats>;
  open(file: string, flags: 'r'): Promise<nodeFs.FileHandle>;
}

export const realFs: ReadFs = nodeFs;

/** A path inside the root (forward slashes), or a problem with one. */
export type Found = { readonly type: 'file'; readonly path: string } | { readonly type: 'problem'; readonly problem: ImageProblem };

/** What systems leave in folders of pictures; names starting with a dot are ignored as well. */
const JUNK = new Set([
  'thumbs.db',
  'ehthumbs.db',
  'ehthumbs_vista.db',
  'desktop.ini',
  'icon\r',
  '$recycle.bin',
  'system volume information',
  '__macosx',
  '@eadir',
  'lost+found',
]);

/** In a folder, this makes it a project of ours: its pictures are thumbnails, not images. */
const PROJECT_FILE = 'project.sqlite';

interface Folder {
  /** Inside the root, '' for the root itself. */
  readonly path: string;
  readonly real: string;
}

/**
 * Depth first, names in code unit order, files before folders. Linked folders come last, so that a folder is found under
 * its own name wherever it has one.
 * @throws AppError folder-unreadable when the root itself cannot be listed
 */
export async function* walk(root: string, fs: ReadFs): AsyncGenerator<Found> {
  let real: string;
  try {
    real = await fs.realpath(root);
  } catch (error) {
    throw folderError(root, error);
  }
  const pending: Folder[] = [{ path: '', real }];
  const links: string[] = [];
  /** Real path of every folder listed so far, and where in the tree it was. */
  const listed = new Map<string, string>();

  for (;;) {
    const folder = pending.pop();
    if (folder === undefined) {
      const link = links.shift();
      if (link === undefined) return;
      const target = await resolveLink(root, link, fs);
      if ('type' in target) yield target;
      else if (listed.has(target.real)) yield seenBefore(link, listed.get(target.real)!);
      else pending.push(target);
      continue;
    }
    if (listed.has(folder.real)) continue; // a real folder inside a linked one, listed under another name already
    listed.set(folder.real, folder.path);

    let entries: Dirent[];
    try {
      entries = await fs.readdir(path.join(root, folder.path), { withFileTypes: true });
    } catch (error) {
      const problem = folderError(folder.path || root, error);
      if (folder.path === '') throw problem;
      yield { type: 'problem', problem: { ...problem.facts, path: folder.path } };
      continue;
    }
    if (folder.path !== '' && entries.some((entry) => entry.name === PROJECT_FILE)) continue;
    entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));

    const inside: Folder[] = [];
    for (const entry of entries) {
      if (entry.name.startsWith('.') || JUNK.has(entry.name.toLowerCase())) continue;
      const at = folder.path === '' ? entry.name : `${folder.path}/${entry.name}`;
      if (entry.isDirectory()) inside.push({ path: at, real: path.join(folder.real, entry.name) });
      else if (entry.isFile()) yield { type: 'file', path: at };
      else if (entry.isSymbolicLink()) {
        const kind = await linkKind(path.join(root, at), fs);
        if (kind === 'folder') links.push(at);
        else if (kind === 'file') yield { type: 'file', path: at };
        else yield brokenLink(at, kind);
      } else yield notAFile(at); // pipes, sockets, devices: opening one could wait for ever
    }
    pending.push(...inside.reverse());
  }
}

/** What a link leads to, or the system's code why that cannot be told. */
async function linkKind(file: string, fs: ReadFs): Promise<string> {
  try {
    const stats = await fs.stat(file);
    return stats.isDirectory() ? 'folder' : stats.isFile() ? 'file' : 'other';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'unknown';
  }
}

async function resolveLink(root: string, link: string, fs: ReadFs): Promise<Folder | Extract<Found, { type: 'problem' }>> {
  try {
    return { path: link, real: await fs.realpath(path.join(root, link)) };
  } catch (error) {
    return brokenLink(link, (error as NodeJS.ErrnoException).code ?? 'unknown');
  }
}

function problem(at: string, error: AppError): Extract<Found, { type: 'problem' }> {
  return { type: 'problem', problem: { ...error.facts, path: at } };
}

function seenBefore(link: string, first: string): Found {
  const where = first === '' ? 'the image folder itself' : first;
  const circle = first === '' || link.startsWith(`${first}/`);
  const text = circle
    ? `${link} is a link that leads back to ${where}: a circle.`
    : `${link} is a link to ${where}, which is read already.`;
  return problem(
    link,
    new AppError('link-circle', text, 'Nothing is to be done: its images are read once. Remove the link to be rid of this line.'),
  );
}

function brokenLink(link: string, code: string): Extract<Found, { type: 'problem' }> {
  if (code === 'other') return notAFile(link);
  if (code === 'ELOOP')
    return problem(link, new AppError('link-circle', `${link} is a link that leads back to itself.`, 'Remove the link.'));
  if (code === 'ENOENT')
    return problem(
      link,
      new AppError('image-vanished', `${link} is a link to a file that is not there.`, 'Put the file back or remove the link.'),
    );
  return problem(
    link,
    new AppError('image-unreadable', `${link} is a link that cannot be followed (${code}).`, 'Check what the link points to.'),
  );
}

function notAFile(at: string): Extract<Found, { type: 'problem' }> {
  return problem(at, new AppError('image-unsupported', `${at} is a pipe, socket or device, not a file.`, 'Nothing is to be done.'));
}

function folderError(folder: string, error: unknown): AppError {
  const { code, message } = error as NodeJS.ErrnoException;
  const cause = { cause: error };
  if (code === 'ENOENT')
    return new AppError(
      'folder-unreadable',
      `The folder ${folder} is not there.`,
      'Choose another folder, or connect the disk that it is on.',
      cause,
    );
  if (code === 'ENOTDIR')
    return new AppError('folder-unreadable', `${folder} is a file, not a folder.`, 'Choose the folder that it is in.', cause);
  if (code === 'EACCES' || code === 'EPERM') {
    return new AppError(
      'folder-unreadable',
      `No permission to read the folder ${folder}.`,
      'Change its permissions, or choose another folder.',
      cause,
    );
  }
  return new AppError(
    'folder-unreadable',
    `The folder ${folder} cannot be read: ${message}.`,
    'Check the disk, or choose another folder.',
    cause,
  );
}
