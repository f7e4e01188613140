/**
 * Serves the built page with the fake host behind it, under a content policy as strict as the page is meant to bear.
 *
 *   node test/renderer/fake-server.ts [port] [--closed]     then open the printed address
 */
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createHTTPHandler } from '@trpc/server/adapters/standalone';
import sharp from 'sharp';
import { createRouter } from '../../core/contract/index.ts';
import { FakeHost } from './fake-host.ts';
import { pcaPicture, scenePicture, sceneWidth, variants } from './fake-pictures.ts';

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
};
/** As strict as the page is meant to bear: no inline script or style, nothing from elsewhere. */
export const contentSecurityPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export interface Served {
  readonly url: string;
  readonly host: FakeHost;
  close(): Promise<void>;
}

/** Serves the page built at `root` and the fake host on a loopback port (0: any free one). */
export async function serve(
  host: FakeHost,
  port = 0,
  root = fileURLToPath(new URL('../../dist/renderer/', import.meta.url)),
): Promise<Served> {
  const trpc = createHTTPHandler({ router: createRouter(host.service), basePath: '/trpc/' });
  const pictures = new Map<number, Promise<Buffer>>();
  const picture = (id: number): Promise<Buffer> => {
    const variant = (id - 1) % variants;
    if (!pictures.has(variant)) pictures.set(variant, scenePicture(variant, host.pictureScale));
    return pictures.get(variant)!;
  };
  const server: Server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://127.0.0.1');
    response.setHeader('Content-Security-Policy', contentSecurityPolicy);
    if (url.pathname.startsWith('/trpc/')) return void trpc(request, response);
    void answer(url).then(
      ({ type, body }) => {
        response.writeHead(200, { 'Content-Type': type, 'Cache-Control': type.startsWith('image/') ? 'max-age=600' : 'no-store' });
        response.end(body);
      },
      () => {
        response.writeHead(404);
        response.end();
      },
    );
  });
  const answer = async (url: URL): Promise<{ type: string; body: Buffer }> => {
    const [, files, what, first, second, third] = url.pathname.split('/');
    if (files === 'files') {
      if (what === 'thumb')
        return {
          type: 'image/jpeg',
          body: await sharp(await picture(Number(first)))
            .resize(256, 256, { fit: 'inside' })
            .jpeg()
            .toBuffer(),
        };
      if (what === 'image') {
        const max = Number(url.searchParams.get('max') ?? 0);
        const whole = await picture(Number(first));
        return {
          type: 'image/jpeg',
          body:
            max > 0 && max < sceneWidth * host.pictureScale
              ? await sharp(whole).resize(max, max, { fit: 'inside' }).jpeg().toBuffer()
              : whole,
        };
      }
      if (what === 'pca')
        return { type: 'image/png', body: await pcaPicture((Number.parseInt(third!) - 1) % variants, Math.min(1, Number(second) / 1200)) };
      if (what === 'export') return { type: 'application/json', body: Buffer.from('{"images":[],"annotations":[],"categories":[]}') };
    }
    const path = normalize(join(root, url.pathname === '/' ? 'index.html' : url.pathname));
    if (!path.startsWith(normalize(root))) throw new Error('outside');
    return { type: types[extname(path)] ?? 'application/octet-stream', body: await readFile(path) };
  };
  await new Promise<void>((done) => server.listen(port, '127.0.0.1', done));
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' && address ? address.port : port}/`,
    host,
    close: () =>
      new Promise((done) => {
        host.close();
        server.closeAllConnections();
        server.close(() => done());
      }),
  };
}

if (import.meta.main) {
  const served = await serve(new FakeHost({ open: !process.argv.includes('--closed') }), Number(process.argv[2] ?? 5199));
  console.log(`The page with made-up data: ${served.url}`);
}
