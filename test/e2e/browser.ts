// What the tests in a real browser share: the browser if there is one, and a real host process to visit.
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const chrome = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
  (path) => path && existsSync(path),
);
export const chromeFlags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** A host process as `npm start` starts it. */
export interface RunningHost {
  readonly url: string;
  readonly process: ChildProcess;
  /** Ends it and waits. */
  end(signal: NodeJS.Signals): Promise<void>;
}

const hostFile = fileURLToPath(new URL('../../core/host/main.ts', import.meta.url));

/** @param execArgv arguments of Node; @param env added to this process's */
export async function startHostProcess(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  execArgv: readonly string[] = [],
): Promise<RunningHost> {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', ...execArgv, hostFile, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const line = await Promise.race([
    new Promise<string>((resolve) => createInterface({ input: child.stdout! }).once('line', resolve)),
    exited.then(() => Promise.reject(new Error(`the host ended before it was ready: ${errors}`))),
  ]);
  return {
    url: (JSON.parse(line) as { url: string }).url,
    process: child,
    async end(signal) {
      child.kill(signal);
      await exited;
    },
  };
}

/** COCO's compressed run lengths to pixels [H,W], written from the format's description alone: shares no code with the product. */
export function independentDecode(rle: { readonly size: readonly number[]; readonly counts: string }): Uint8Array {
  const [height, width] = rle.size as [number, number];
  const runs: number[] = [];
  for (let i = 0; i < rle.counts.length;) {
    let value = 0;
    let shift = 0;
    let byte: number;
    do {
      byte = rle.counts.charCodeAt(i++) - 48;
      value += (byte & 31) * 2 ** shift;
      shift += 5;
    } while (byte & 32);
    if (byte & 16) value -= 2 ** shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2]! : value);
  }
  const pixels = new Uint8Array(width * height);
  let at = 0;
  runs.forEach((run, index) => {
    for (let k = 0; k < run; k++, at++) if (index % 2 === 1) pixels[(at % height) * width + Math.floor(at / height)] = 1;
  });
  if (at !== width * height) throw new Error(`runs cover ${at} of ${width * height} pixels`);
  return pixels;
}
