/** The app without Electron: the host as a child process, its page in the person's browser. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { urlOf } from '../electron/engine.ts';
import { nodeFlags } from './bootstrap.mjs';
import { ending } from './supervise.ts';

export interface RunningHost {
  /** Address of the page with its one-time token. */
  readonly url: string;
  /** Exit code of the host, once it has ended. */
  readonly ended: Promise<number>;
}

/**
 * Starts core/host and waits for the JSON line {"url": ...} on its stdout; later lines are passed on.
 * @param entry another program that speaks like the host, in tests
 * @throws Error when the host ends before it is ready; what it said is on stderr already
 */
export async function startHost(root: string, args: readonly string[], entry = path.join(root, 'core/host/main.ts')): Promise<RunningHost> {
  const child = spawn(process.execPath, [...nodeFlags, entry, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = ending(child).then(({ code, signal }) => code ?? (signal === 'SIGINT' || signal === 'SIGTERM' ? 0 : 1));
  const lines = createInterface({ input: child.stdout });
  const ready = new Promise<string>((resolve) => {
    lines.on('line', (line) => {
      const url = urlOf(line);
      if (url === null) console.log(line);
      else resolve(url);
    });
  });
  const early = ended.then((code) => {
    throw new Error(`The host ended before it was ready (exit code ${code}).`);
  });
  // After readiness `early` loses the race, and its rejection must not count as unhandled.
  early.catch(() => {});
  return { url: await Promise.race([ready, early]), ended };
}

/** Shows an address in the default browser. A machine without one is no error: the address is printed anyway. */
export function openInBrowser(url: string): void {
  const [program, ...args] =
    process.platform === 'darwin'
      ? ['open', url]
      : process.platform === 'win32'
        ? ['rundll32', 'url.dll,FileProtocolHandler', url]
        : ['xdg-open', url];
  const child = spawn(program!, args, { stdio: 'ignore', detached: true });
  child.once('error', () => {});
  child.unref();
}
