/** Front door of the host: starts the server, the project and the jobs in this process. */
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Folders } from './folders.ts';
import type { WorkerOptions } from './jobs.ts';
import type { Planner } from './planner.ts';
import { defaultConfigDir, UserConfig } from './recent.ts';
import { listen, type Listening } from './server.ts';
import { serviceOf, type Service } from './service.ts';
import type { ChoosePath } from './session.ts';

export type { WorkerOptions } from './jobs.ts';
export type { Planner } from './planner.ts';

export interface HostOptions {
  /** On 127.0.0.1; 0: any free one. Default: that of the last launch, or any free one when it is taken. */
  readonly port?: number;
  /** Folders that the page may look into, with everything below. */
  readonly roots?: readonly string[];
  /** Where new projects go when no place is chosen. Default: Patchwise in the user's home. */
  readonly projectsDir?: string;
  /** Recent projects, settings, the last port. Default: PATCHWISE_CONFIG_DIR, else the system's place for an app's files. */
  readonly configDir?: string;
  /** The built page. Default: dist/renderer of this installation. */
  readonly rendererDir?: string;
  /** The native dialog: an absolute path, or null when cancelled. */
  readonly chooseFolder?: ChoosePath;
  /** A project to open at once. */
  readonly project?: string;
  /** How workers are forked; tests bring another jobs module. */
  readonly worker?: WorkerOptions;
  readonly planner?: Planner;
  /** Pause after a decision before learning starts, in ms. Default 1500. */
  readonly learnDelayMs?: number;
}

export interface Host {
  /** Opens the page: address and token. */
  readonly url: string;
  readonly token: string;
  /** Stops jobs, closes the project, ends connections. */
  close(): Promise<void>;
}

/** The host without its server: for the command line. */
export interface LocalService {
  readonly service: Service;
  readonly folders: Folders;
  /** File that remembers which GPU drivers have passed the check of their results. */
  readonly gpuChecks: string;
  /** Waits until everything decided so far has been learned. @throws AppError the reason that it failed */
  learned(): Promise<void>;
}

/** @throws AppError when a root or the project cannot be opened */
export async function createService(options: HostOptions = {}): Promise<LocalService> {
  const folders = new Folders();
  await folders.allow((options.roots ?? []).map((root) => resolve(root)));
  const { chooseFolder, worker, planner, learnDelayMs } = options;
  const config = userConfig(options);
  const service = serviceOf({
    version: installation().version,
    folders,
    config,
    projectsDir: resolve(options.projectsDir ?? join(homedir(), 'Patchwise')),
    ...(chooseFolder && { chooseFolder }),
    ...(worker && { worker }),
    ...(planner && { planner }),
    ...(learnDelayMs !== undefined && { learnDelayMs }),
  });
  if (options.project !== undefined) await service.openAt(resolve(options.project));
  return { service, folders, gpuChecks: config.gpuChecks, learned: () => service.learned() };
}

/** @throws AppError when a root or the project cannot be opened; a system error when the port asked for is taken */
export async function startHost(options: HostOptions = {}): Promise<Host> {
  const { service } = await createService(options);
  const rendererDir = resolve(options.rendererDir ?? join(installation().dir, 'dist', 'renderer'));
  const config = userConfig(options);
  const listening =
    options.port === undefined ? await listenAgain(service, rendererDir, config.port()) : await listen(service, rendererDir, options.port);
  config.savePort(listening.port);
  return {
    url: listening.url,
    token: listening.token,
    async close() {
      await listening.close();
      await service.close();
    },
  };
}

/**
 * On the port of the last launch: the page keeps strokes that are not saved yet in the browser's storage, which belongs to
 * an origin, and the port is part of that. On any free one when another program has it.
 */
async function listenAgain(service: Service, rendererDir: string, last: number | null): Promise<Listening> {
  try {
    return await listen(service, rendererDir, last ?? 0);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // EACCES: Windows keeps ranges of ports for itself, other ones after each start.
    if (last === null || (code !== 'EADDRINUSE' && code !== 'EACCES')) throw error;
    return listen(service, rendererDir, 0);
  }
}

function userConfig({ configDir }: HostOptions): UserConfig {
  return new UserConfig(resolve(configDir ?? defaultConfigDir()));
}

/** Where this installation is and which version: the nearest package.json above, compiled or not. */
function installation(): { dir: string; version: string } {
  for (let dir = dirname(fileURLToPath(import.meta.url)); dirname(dir) !== dir; dir = dirname(dir)) {
    const file = join(dir, 'package.json');
    if (existsSync(file)) return { dir, version: (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version };
  }
  throw new Error('package.json is missing from this installation');
}
