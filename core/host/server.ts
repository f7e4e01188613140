/**
 * The host's only door: HTTP on the loopback, for one browser that holds this launch's token. Who may come in is decided
 * here, before anything is looked at; what is answered is the router's, files.ts's and the built page's.
 *
 * - `GET /?token=...` sets an HttpOnly, SameSite=Strict cookie and redirects to `/`; every other request needs the cookie.
 * - `Host` must name this server (DNS rebinding), `Origin` and `Sec-Fetch-Site`, when sent, this very page (CSRF).
 * - The page may load nothing from elsewhere and run no inline script.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { readdirSync, readFileSync } from 'node:fs';
import { extname, join, sep } from 'node:path';
import type { AddressInfo } from 'node:net';
import { nodeHTTPRequestHandler } from '@trpc/server/adapters/node-http';
import { AppError, createRouter, errorFacts } from '../contract/index.ts';
import { Files, type FileAnswer } from './files.ts';
import type { Service } from './service.ts';

/** The largest call is a mask: 20 MB of run lengths, see contract/service.ts. */
const maxBodyBytes = 32 * 2 ** 20;

const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  // Svelte sets style attributes (widths, colours); they cannot run anything.
  "style-src-attr 'unsafe-inline'",
  "img-src 'self' blob: data:",
  "font-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const types: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.webp': 'image/webp',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain; charset=utf-8',
  '.webmanifest': 'application/manifest+json',
};

export interface Listening {
  /** With the token: opens the page. */
  readonly url: string;
  readonly token: string;
  readonly port: number;
  close(): Promise<void>;
}

/** @param port 0: any free one */
export async function listen(service: Service, rendererDir: string, port: number): Promise<Listening> {
  const gate = new Gate();
  const page = new BuiltPage(rendererDir);
  const files = new Files();
  const router = createRouter(service);
  const server = createServer((req, res) => {
    void answer(req, res).catch((error: unknown) => {
      if (res.headersSent) res.destroy();
      else sendFacts(res, error);
    });
  });

  async function answer(req: IncomingMessage, res: ServerResponse): Promise<void> {
    setHeaders(res);
    const url = URL.parse(`http://host${req.url}`); // only path and query are taken from it
    if (!url) return refuse(res, 400, 'This is not an address.');
    if (!gate.admits(req, res, url)) return;
    const path = url.pathname;
    if (path.startsWith('/trpc/')) {
      if (req.method !== 'GET' && req.method !== 'POST') return refuse(res, 405, 'Only GET and POST.');
      await nodeHTTPRequestHandler({ router, req, res, path: path.slice('/trpc/'.length), maxBodySize: maxBodyBytes });
      return;
    }
    if (req.method !== 'GET' && req.method !== 'HEAD') return refuse(res, 405, 'Only GET.');
    if (path.startsWith('/files/')) {
      const parts = decodeParts(path.slice('/files/'.length));
      const found = parts && (await files.answer(service.opened(), parts, url.searchParams));
      return found ? sendFile(req, res, found) : refuse(res, 404, 'There is no such file.');
    }
    page.send(req, res, path);
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  gate.port = (server.address() as AddressInfo).port;
  return {
    url: `http://127.0.0.1:${gate.port}/?token=${gate.token}`,
    token: gate.token,
    port: gate.port,
    close: () => close(server),
  };
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections(); // event streams never end by themselves
  });
}

/** Who may come in. */
class Gate {
  port = 0;
  readonly token = randomBytes(32).toString('base64url');
  /** The cookie's value; the token itself is in a URL, and URLs get around. */
  readonly #session = randomBytes(32).toString('base64url');

  /** True when the request may go on; else it has been answered. */
  admits(req: IncomingMessage, res: ServerResponse, url: URL): boolean {
    const host = req.headers.host;
    if (host !== `127.0.0.1:${this.port}` && host !== `localhost:${this.port}`)
      return this.#refuse(res, 403, 'This address is not Patchwise.');
    const { origin, 'sec-fetch-site': site } = req.headers;
    if (origin !== undefined && origin !== `http://${host}`)
      return this.#refuse(res, 403, 'Only the page of Patchwise itself may call it.');

    const token = url.searchParams.get('token');
    if (req.method === 'GET' && url.pathname === '/' && token !== null) {
      if (!same(token, this.token)) return this.#refuse(res, 401, 'This link is of another launch. Open Patchwise again.');
      res.setHeader('Set-Cookie', `${this.#cookie}=${this.#session}; HttpOnly; SameSite=Strict; Path=/`);
      res.writeHead(303, { Location: '/', 'Cache-Control': 'no-store' }).end();
      return false;
    }
    if (site !== undefined && site !== 'same-origin' && site !== 'none')
      return this.#refuse(res, 403, 'Only the page of Patchwise itself may call it.');
    const cookie = cookies(req.headers.cookie).get(this.#cookie);
    if (cookie === undefined || !same(cookie, this.#session)) return this.#refuse(res, 401, 'Open Patchwise with the link of this launch.');
    return true;
  }

  /** Cookies know no ports: two hosts on one machine need two names. */
  get #cookie(): string {
    return `patchwise-${this.port}`;
  }

  #refuse(res: ServerResponse, status: number, text: string): false {
    refuse(res, status, text);
    return false;
  }
}

/** Equal, in a time that does not tell where they differ. */
function same(a: string, b: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function cookies(header: string | undefined): Map<string, string> {
  const pairs = (header ?? '').split(';').map((pair) => pair.trim().split('=', 2) as [string, string | undefined]);
  return new Map(pairs.map(([name, value]) => [name, value ?? '']));
}

/** Path segments, decoded; null when one is malformed. Each is an id to look up, none becomes part of a path. */
function decodeParts(path: string): string[] | null {
  try {
    return path.split('/').map(decodeURIComponent);
  } catch {
    return null;
  }
}

function setHeaders(res: ServerResponse): void {
  res.setHeader('Content-Security-Policy', contentSecurityPolicy);
  res.setHeader('X-Content-Type-Options', 'nosniff');
  res.setHeader('X-Frame-Options', 'DENY');
  res.setHeader('Referrer-Policy', 'no-referrer');
  res.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
  res.setHeader('Cross-Origin-Resource-Policy', 'same-origin');
  res.setHeader('Cache-Control', 'no-store');
}

function refuse(res: ServerResponse, status: number, text: string): void {
  res.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

function sendFacts(res: ServerResponse, error: unknown): void {
  const status = error instanceof AppError ? 409 : 500;
  res.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(errorFacts(error)));
}

async function sendFile(req: IncomingMessage, res: ServerResponse, { type, etag, body, download }: FileAnswer): Promise<void> {
  // Kept by the browser, but asked for each time: a 304 costs no decoding, and a changed file shows at once.
  res.setHeader('Cache-Control', etag ? 'private, no-cache' : 'no-store');
  if (etag) res.setHeader('ETag', etag);
  if (etag && req.headers['if-none-match'] === etag) {
    res.writeHead(304).end();
    return;
  }
  if (download !== undefined) res.setHeader('Content-Disposition', `attachment; filename="${encodeURIComponent(download)}"`);
  res.setHeader('Content-Type', type);
  if (req.method === 'HEAD') {
    res.end();
    return;
  }
  const content = await body();
  if (content instanceof Buffer) {
    res.setHeader('Content-Length', content.length);
    res.end(content);
    return;
  }
  const stream = content as NodeJS.ReadableStream;
  stream.on('error', () => res.destroy());
  stream.pipe(res);
}

/**
 * The built page: the files that are in its folder, by the addresses they have there. Nothing asked for becomes a path.
 * Addresses without an ending are places inside the page.
 */
class BuiltPage {
  readonly #dir: string;
  #files: ReadonlyMap<string, string> = new Map();

  constructor(dir: string) {
    this.#dir = dir;
    this.#files = this.#list();
  }

  send(req: IncomingMessage, res: ServerResponse, path: string): void {
    const isPage = extname(path) === '';
    if (isPage) this.#files = this.#list(); // built anew meanwhile
    const file = this.#files.get(isPage ? '/index.html' : path);
    if (file === undefined) {
      if (isPage) refuse(res, 503, 'The page of Patchwise has not been built. `npm start` builds it.');
      else refuse(res, 404, 'There is no such file.');
      return;
    }
    const bytes = readFileSync(file);
    // Files in assets/ carry a hash of their content in their name.
    if (path.startsWith('/assets/')) res.setHeader('Cache-Control', 'private, max-age=31536000, immutable');
    res.writeHead(200, { 'Content-Type': types[extname(file)] ?? 'application/octet-stream', 'Content-Length': bytes.length });
    res.end(req.method === 'HEAD' ? undefined : bytes);
  }

  #list(): Map<string, string> {
    try {
      const entries = readdirSync(this.#dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
      return new Map(
        entries.map((entry) => {
          const file = join(entry.parentPath, entry.name);
          return [file.slice(this.#dir.length).split(sep).join('/'), file];
        }),
      );
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map();
      throw error;
    }
  }
}
