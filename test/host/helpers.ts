// What the host's tests share: a folder of images, a host in this process or its own, and the page's side of its calls.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { get as httpGet, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createTRPCClient, httpLink, httpSubscriptionLink, splitLink, type TRPCClient } from '@trpc/client';
import type { AppEvent, AppRouter, JobState, ProjectSummary } from '../../core/contract/index.ts';
import { startHost, type Host, type HostOptions } from '../../core/host/index.ts';
import { makePng } from '../fixtures/png.ts';
import { temporaryFolder, writeFiles } from '../fixtures/files.ts';
import { imageSize } from './shapes.ts';

export const fakeJobs = fileURLToPath(new URL('./fakeJobs.ts', import.meta.url));
const mainFile = fileURLToPath(new URL('../../core/host/main.ts', import.meta.url));

export async function imageFolder(folder: string, count: number): Promise<string> {
  const files: Record<string, Uint8Array> = {};
  for (let n = 0; n < count; n++) {
    const samples = Uint8Array.from({ length: imageSize.width * imageSize.height * 3 }, (_, i) => (i * 7 + n * 40) % 256);
    files[`image-${String(n).padStart(3, '0')}.png`] = makePng({ ...imageSize, bits: 8, colourType: 2, samples });
  }
  const images = join(folder, 'images');
  mkdirSync(images, { recursive: true });
  await writeFiles(images, files);
  return images;
}

// --- the page's side --------------------------------------------------------------------------------------------------

/** Enough of the browser's EventSource for tRPC's subscription link. */
function eventSourceWith(cookie: string) {
  return class {
    static readonly CONNECTING = 0;
    static readonly OPEN = 1;
    static readonly CLOSED = 2;
    readyState = 0;
    readonly #listeners = new Map<string, ((event: object) => void)[]>();
    readonly #request;
    constructor(url: string) {
      this.#request = httpGet(url, { headers: { cookie } }, (response) => {
        this.readyState = 1;
        response.on('error', () => {});
        this.#tell('open', {});
        let kind = 'message';
        const lines = createInterface(response).on('error', () => {});
        lines.on('line', (line) => {
          if (line.startsWith('event: ')) kind = line.slice(7);
          if (line.startsWith('data: ')) this.#tell(kind, { data: line.slice(6), lastEventId: '' });
          if (line === '') kind = 'message';
        });
      });
      this.#request.on('error', () => {});
    }
    addEventListener(kind: string, listener: (event: object) => void): void {
      this.#listeners.set(kind, [...(this.#listeners.get(kind) ?? []), listener]);
    }
    removeEventListener(): void {}
    close(): void {
      this.readyState = 2;
      this.#request.destroy();
    }
    #tell(kind: string, event: object): void {
      for (const listener of this.#listeners.get(kind) ?? []) listener(event);
    }
  };
}

export type Client = TRPCClient<AppRouter>;

export interface Page {
  readonly address: string;
  readonly cookie: string;
  readonly call: Client;
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** Sends a request exactly as given: fetch would set or refuse some of these headers. */
export function send(url: string, options: { method?: string; headers?: Record<string, string>; body?: string } = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { origin, hostname, port } = new URL(url);
    const path = url.slice(origin.length) || '/';
    const request = httpRequest({ hostname, port, path, method: options.method ?? 'GET', headers: options.headers ?? {} }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body: Buffer.concat(chunks) }));
    });
    request.on('error', reject);
    request.end(options.body);
  });
}

/** Comes in by the link, as a browser does. */
export async function openPage(url: string): Promise<Page> {
  const entry = await send(url);
  const cookie = entry.headers['set-cookie']![0]!.split(';')[0]!;
  const address = new URL(url).origin;
  const call = createTRPCClient<AppRouter>({
    links: [
      splitLink({
        condition: (op) => op.type === 'subscription',
        true: httpSubscriptionLink({ url: `${address}/trpc`, EventSource: eventSourceWith(cookie) as never }),
        false: httpLink({ url: `${address}/trpc`, headers: { cookie } }),
      }),
    ],
  });
  return { address, cookie, call, get: (path, headers = {}) => send(address + path, { headers: { cookie, ...headers } }) };
}

/** Code and words of a refused call. */
export async function refusal(call: Promise<unknown>): Promise<{ code: string; message: string; action: string }> {
  try {
    await call;
  } catch (error) {
    return (error as { data: { facts: { code: string; message: string; action: string } } }).data.facts;
  }
  throw new Error('the call went through');
}

export async function until<T>(what: string, look: () => Promise<T | null | undefined | false> | T | null | undefined | false): Promise<T> {
  for (const started = Date.now(); ; await sleep(15)) {
    const found = await look();
    if (found) return found;
    if (Date.now() - started > 20_000) throw new Error(`waited in vain for ${what}`);
  }
}

/** Waits for the end of the lane's job. */
export async function jobEnd(page: Page, kind: JobState['kind']): Promise<JobState> {
  return until(`the end of ${kind}`, async () =>
    (await page.call.jobs.query()).find((job) => job.kind === kind && !['running', 'stopping'].includes(job.state)),
  );
}

export function eventsOf(page: Page): { events: AppEvent[]; stop(): void } {
  const events: AppEvent[] = [];
  const subscription = page.call.events.subscribe(undefined, { onData: (event) => events.push(event as AppEvent) });
  return { events, stop: () => subscription.unsubscribe() };
}

// --- hosts ------------------------------------------------------------------------------------------------------------

export interface Setting {
  readonly folder: string;
  readonly images: string;
  readonly host: Host;
  readonly page: Page;
}

/** A host in this process with the stand-in jobs, and its page. */
export async function hostWith(t: TestContext, images: number, options: HostOptions = {}): Promise<Setting> {
  const folder = temporaryFolder(t);
  const pictures = await imageFolder(folder, images);
  const host = await startHost({
    roots: [folder],
    projectsDir: join(folder, 'projects'),
    configDir: join(folder, 'config'),
    worker: { jobsModule: fakeJobs },
    learnDelayMs: 50,
    ...options,
  });
  t.after(() => host.close());
  return { folder, images: pictures, host, page: await openPage(host.url) };
}

/** A new project on the folder's images, scanned. */
export async function newProject(page: Page, name = 'Leaves'): Promise<ProjectSummary> {
  const [root] = await page.call.folderRoots.query();
  const { children } = await page.call.folderChildren.query({ folderId: root!.id });
  await page.call.createProject.mutate({ name, imagesId: children.find((child) => child.name === 'images')!.id, locationId: null });
  await jobEnd(page, 'scan');
  return (await page.call.currentProject.query())!;
}

export interface HostProcess {
  readonly child: ChildProcess;
  readonly page: Page;
}

/** The host as its own process, as the desktop app runs it. */
export async function hostProcess(t: TestContext, folder: string, more: string[] = []): Promise<HostProcess> {
  const args = [mainFile, '--root', folder, '--projects', join(folder, 'projects'), '--jobs-module', fakeJobs, ...more];
  const child = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, PATCHWISE_CONFIG_DIR: join(folder, 'config') },
  });
  t.after(() => child.kill('SIGKILL'));
  const [line] = (await once(createInterface(child.stdout!), 'line')) as [string];
  return { child, page: await openPage((JSON.parse(line) as { url: string }).url) };
}

export async function killHard(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

// --- mounts -----------------------------------------------------------------------------------------------------------

/** True when this process may mount: then read-only and full disks are real ones. */
export function canMount(folder: string): boolean {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return false;
  const probe = join(folder, 'probe');
  mkdirSync(probe);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', probe], { stdio: 'ignore' });
    execFileSync('umount', [probe], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** A temporary folder in which disks of their own may be mounted; they go before it goes. */
export function folderOfDisks(t: TestContext): { folder: string; mount(name: string, size: string): string } {
  const folder = mkdtempSync(join(tmpdir(), 'patchwise-disks-'));
  const mounted: string[] = [];
  t.after(() => {
    for (const dir of mounted) execFileSync('umount', ['-l', dir]);
    rmSync(folder, { recursive: true, force: true });
  });
  return {
    folder,
    mount(name, size) {
      const dir = join(folder, name);
      mkdirSync(dir);
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', dir]);
      mounted.push(dir);
      return dir;
    },
  };
}

export function remountReadOnly(dir: string): void {
  execFileSync('mount', ['-o', 'remount,ro', dir]);
}
