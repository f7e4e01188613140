/**
 * The engine's process (core/host under the bundled Node): started, listened to, ended, its death explained. Knows no
 * Electron, so that its tests run it in plain Node.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface, type Interface } from 'node:readline';

/** What the host (core/host/main.ts) asks of the shell over IPC; `requestId` comes back with the answer. */
export interface ChooseFolderRequest {
  readonly type: 'chooseFolder';
  readonly requestId: number;
  /** `weights`: a file, not a folder. */
  readonly purpose: 'images' | 'project' | 'weights';
}

export interface EngineOptions {
  /** Node 24's program, and the script it runs. */
  readonly node: string;
  readonly entry: string;
  readonly args: readonly string[];
  /** Asks the person; null when they cancel. */
  readonly chooseFolder: (purpose: ChooseFolderRequest['purpose']) => Promise<string | null>;
  /** A started engine ended without being asked to. */
  readonly onDeath: (reason: string) => void;
  /** An engine that is not ready by then has failed. Generous: a first start on a slow disk. */
  readonly startMs?: number;
  /** After being asked to end, so long to save and close. */
  readonly graceMs?: number;
}

/** Flags of the engine's Node: node:sqlite still announces itself as experimental. */
const nodeFlags = ['--disable-warning=ExperimentalWarning'];
/** Lines of stderr kept for telling why the engine died. */
const keptLines = 30;

export class Engine {
  readonly #options: EngineOptions;
  #child: ChildProcess | null = null;
  #stopping = false;
  #lastWords: string[] = [];

  constructor(options: EngineOptions) {
    this.#options = options;
  }

  get running(): boolean {
    return this.#child !== null;
  }

  /** Starts the engine and returns the page's address with its token. @throws Error with the reason, for a person */
  async start(): Promise<string> {
    if (this.#child) throw new Error('The engine is running already.');
    const { node, entry, args, startMs = 60_000 } = this.#options;
    this.#stopping = false;
    this.#lastWords = [];
    const env = { ...process.env };
    // Meant for Electron's own processes; the engine's Node must not hear them.
    for (const name of ['NODE_OPTIONS', 'ELECTRON_RUN_AS_NODE']) delete env[name];
    const child = spawn(node, [...nodeFlags, entry, ...args], { env, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    this.#child = child;
    createInterface({ input: child.stderr! }).on('line', (line) => this.#hear(line));
    child.on('message', (message) => void this.#answer(child, message));

    return new Promise<string>((resolve, reject) => {
      let ready = false;
      let tooLate = false;
      const late = setTimeout(() => {
        tooLate = true;
        child.kill('SIGKILL');
      }, startMs);
      const ended = (how: string) => {
        clearTimeout(late);
        this.#child = null;
        const reason = [how, ...this.#lastWords].join('\n');
        if (!ready) reject(new Error(reason));
        else if (!this.#stopping) this.#options.onDeath(reason);
      };
      child.once('error', (error) => ended(`The engine could not be started: ${error.message}.`));
      // 'close' comes after the last of stderr was read; 'exit' may come before.
      child.once('close', (code, signal) => {
        if (this.#child === child) ended(tooLate ? `The engine was not ready after ${startMs / 1000} seconds.` : howItEnded(code, signal));
      });
      const lines: Interface = createInterface({ input: child.stdout! });
      lines.on('line', (line) => {
        const url = ready ? null : urlOf(line);
        if (url === null) return;
        ready = true;
        clearTimeout(late);
        resolve(url);
      });
    });
  }

  /** Asks the engine to save and end, and ends it when it does not. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (!child) return;
    this.#stopping = true;
    const closed = new Promise((resolve) => child.once('close', resolve));
    // Windows has no SIGTERM that a program could answer.
    if (process.platform === 'win32') child.send({ type: 'close' });
    else child.kill('SIGTERM');
    const killing = setTimeout(() => child.kill('SIGKILL'), this.#options.graceMs ?? 10_000);
    await closed;
    clearTimeout(killing);
  }

  #hear(line: string): void {
    process.stderr.write(`${line}\n`);
    this.#lastWords.push(line);
    if (this.#lastWords.length > keptLines) this.#lastWords.shift();
  }

  async #answer(child: ChildProcess, message: unknown): Promise<void> {
    if (!isChooseFolder(message)) return;
    const path = await this.#options.chooseFolder(message.purpose).catch(() => null);
    if (child.connected) child.send({ type: 'folderChosen', requestId: message.requestId, path });
  }
}

function isChooseFolder(message: unknown): message is ChooseFolderRequest {
  const { type, requestId, purpose } = (message ?? {}) as Record<string, unknown>;
  return (
    type === 'chooseFolder' && typeof requestId === 'number' && (purpose === 'images' || purpose === 'project' || purpose === 'weights')
  );
}

/** The page's address in the host's line {"url": ...}; null for any other line. */
export function urlOf(line: string): string | null {
  try {
    const { url } = JSON.parse(line) as { url?: unknown };
    return typeof url === 'string' ? url : null;
  } catch {
    return null;
  }
}

function howItEnded(code: number | null, signal: NodeJS.Signals | null): string {
  if (signal === 'SIGKILL') return 'The system ended the engine (SIGKILL). That happens when memory runs out.';
  if (signal) return `The engine was ended by ${signal}.`;
  return `The engine ended with exit code ${code}.`;
}
