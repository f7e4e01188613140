/**
 * The host as a process. Prints one line of JSON with its address; talks to the process that forked it, if one did
 * (Electron's main):
 *
 *   to the parent     { type: 'ready', url } · { type: 'failed', facts } · { type: 'chooseFolder', purpose, requestId }
 *   from the parent   { type: 'folderChosen', requestId, path: string | null } · { type: 'close' }
 *
 * Ends when the parent's channel closes, on SIGTERM and on SIGINT.
 */
import { parseArgs } from 'node:util';
import { errorFacts } from '../contract/index.ts';
import { startHost, type Host, type HostOptions } from './index.ts';

export const usage = `Usage: host [--port N] [--root DIR]... [--projects DIR] [--project DIR]

  --port N        port on 127.0.0.1; default: that of the last launch, if it is free
  --root DIR      folder that the page may look into; may be given several times
  --projects DIR  where new projects go; default: Patchwise in your home folder
  --project DIR   project to open at once
`;

type FromParent = { readonly type: 'folderChosen'; readonly requestId: number; readonly path: string | null } | { readonly type: 'close' };

const questions = new Map<number, (path: string | null) => void>();
let host: Host | null = null;
let ending = false;

function chooseFolder(purpose: 'images' | 'project' | 'weights'): Promise<string | null> {
  const requestId = questions.size === 0 ? 1 : Math.max(...questions.keys()) + 1;
  return new Promise((resolve) => {
    questions.set(requestId, resolve);
    process.send!({ type: 'chooseFolder', purpose, requestId });
  });
}

function receive(message: FromParent): void {
  if (message.type === 'close') return void end();
  questions.get(message.requestId)?.(message.path);
  questions.delete(message.requestId);
}

async function end(): Promise<void> {
  if (ending) return;
  ending = true;
  await host?.close();
  process.exit(0);
}

function options(): HostOptions {
  const { values } = parseArgs({
    options: {
      port: { type: 'string' },
      root: { type: 'string', multiple: true, default: [] },
      projects: { type: 'string' },
      project: { type: 'string' },
      // For the tests of this process.
      'jobs-module': { type: 'string' },
    },
  });
  const port = Number(values.port ?? 0);
  if (!Number.isInteger(port) || port < 0 || port > 65535)
    throw new Error(`--port ${values.port}: a port is a whole number from 0 to 65535`);
  return {
    ...(values.port === undefined ? {} : { port }),
    roots: values.root,
    ...(values.projects === undefined ? {} : { projectsDir: values.projects }),
    ...(values.project === undefined ? {} : { project: values.project }),
    ...(values['jobs-module'] === undefined ? {} : { worker: { jobsModule: values['jobs-module'] } }),
    ...(process.send ? { chooseFolder } : {}),
  };
}

process.on('SIGTERM', () => void end());
process.on('SIGINT', () => void end());
if (process.send) {
  process.on('message', receive);
  process.on('disconnect', () => void end());
}
try {
  host = await startHost(options());
  process.stdout.write(`${JSON.stringify({ url: host.url })}\n`);
  process.send?.({ type: 'ready', url: host.url });
} catch (error) {
  const isUsage =
    (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS') || (error instanceof Error && error.message.startsWith('--'));
  const facts = errorFacts(error);
  process.stderr.write(isUsage ? `${facts.message}\n\n${usage}` : `${facts.message} ${facts.action}\n`);
  process.send?.({ type: 'failed', facts });
  process.exit(isUsage ? 2 : 1);
}
