/** Child processes of `npm start`: started, told to end when we are, waited for. */
import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';

/** After being asked to end, a child has so long to save and close. */
const graceMs = 10_000;

export interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/**
 * Waits for a child. When we are told to end it is asked to (SIGTERM; twice is once, a terminal may have told it
 * already), and ended when it does not.
 */
export function ending(child: ChildProcess): Promise<Ending> {
  return new Promise((resolve, reject) => {
    let killing: NodeJS.Timeout | undefined;
    const end = () => {
      if (killing) return;
      child.kill('SIGTERM');
      killing = setTimeout(() => child.kill('SIGKILL'), graceMs);
    };
    const signals: NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];
    for (const signal of signals) process.on(signal, end);
    const settle = () => {
      clearTimeout(killing);
      for (const signal of signals) process.off(signal, end);
    };
    child.once('error', (error) => {
      settle();
      reject(error);
    });
    child.once('exit', (code, signal) => {
      settle();
      resolve({ code, signal });
    });
  });
}

/** Starts a program on our terminal and waits for it. */
export function supervise(program: string, args: readonly string[], options: SpawnOptions = {}): Promise<Ending> {
  return ending(spawn(program, args, { stdio: 'inherit', ...options }));
}
