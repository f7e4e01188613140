/**
 * Counts and words for a run of node:test. Takes the runner's events, gives lines to print. Tests that only hold other
 * tests, suites and files are not counted: each test counts once, where its assertions are.
 */
import path from 'node:path';
import { inspect } from 'node:util';

/** The part of node:test's events that is used here. */
export interface TestEventData {
  readonly name: string;
  readonly nesting: number;
  readonly file?: string | undefined;
  readonly skip?: string | boolean | undefined;
  readonly todo?: string | boolean | undefined;
  readonly details?: {
    readonly type?: string | undefined;
    readonly error?: (Error & { failureType?: string; exitCode?: unknown; signal?: unknown }) | undefined;
  };
}

interface FileState {
  /** Names of the tests that are open, by nesting. */
  names: string[];
  /** Whether a test one level below has ended since the last one ended at this level. */
  held: boolean[];
  passed: number;
  failed: number;
  skipped: number;
  /** What the runner said about the file: errors after a test's end are only told there. */
  diagnostics: string[];
}

export class TestTally {
  passed = 0;
  failed = 0;
  skipped = 0;
  readonly #root: string;
  readonly #files = new Map<string, FileState>();
  readonly #failures: string[] = [];
  readonly #skips = new Map<string, string[]>();

  /** @param root file names are printed relative to it */
  constructor(root: string) {
    this.#root = root;
  }

  /** A test begins; its name is needed for those inside it. */
  start(data: TestEventData): void {
    const state = this.#state(data.file);
    state.names.length = data.nesting;
    state.names[data.nesting] = data.name;
  }

  /** Something the runner says about a file. */
  diagnostic(file: string | undefined, message: string): void {
    this.#state(file).diagnostics.push(message);
  }

  /** A test, suite or file ended. Returns what to print now: failures in full, otherwise nothing. */
  end(passed: boolean, data: TestEventData): string | null {
    const { name, nesting, skip, todo, details } = data;
    const state = this.#state(data.file);
    const file = this.#relative(data.file);
    const holdsOthers = state.held[nesting + 1] === true;
    state.held[nesting + 1] = false;
    state.held[nesting] = true;
    const isFile = path.isAbsolute(name) && name === data.file;
    const isSuite = details?.type === 'suite';
    const parents = state.names.slice(0, nesting);
    const title = isFile ? file : [file, ...parents, name].join(' › ');

    if (passed && isFile) return this.#fail(state, title, 'The file holds no test. Say why with `skip` when there is none to run here.');
    if (passed && skip !== undefined) {
      this.#skip(state, title, typeof skip === 'string' ? skip : 'no reason given');
    } else if (passed && todo !== undefined) {
      this.#skip(state, title, typeof todo === 'string' ? `to do: ${todo}` : 'to do');
    } else if (passed) {
      if (holdsOthers || isSuite) return null;
      this.passed++;
      state.passed++;
    } else if (details?.error?.failureType !== 'subtestsFailed') {
      const error = details?.error;
      const ended = error?.signal
        ? `The process was ended by ${error.signal}.`
        : error?.exitCode
          ? `The process ended with exit code ${error.exitCode}.`
          : null;
      const about = isFile ? [ended ?? inspect(error), ...state.diagnostics].join('\n') : errorText(error?.cause ?? error);
      return this.#fail(state, title, about);
    }
    return null;
  }

  /** One line about a file that ended. */
  fileLine(file: string | undefined, milliseconds: number): string {
    const { passed, failed, skipped } = this.#state(file);
    const parts = [`${passed} passed`, ...(failed ? [`${failed} failed`] : []), ...(skipped ? [`${skipped} skipped`] : [])];
    return `${failed ? '✖' : '✔'} ${this.#relative(file)}: ${parts.join(', ')} (${(milliseconds / 1000).toFixed(1)} s)`;
  }

  /** Names of failures and reasons of skipped tests, together at the end where they are found. */
  summary(): string {
    const lines: string[] = [];
    for (const [reason, titles] of this.#skips) lines.push(`Skipped: ${reason}`, ...titles.map((title) => `  ${title}`));
    if (this.#failures.length) lines.push('Failed:', ...this.#failures.map((title) => `  ${title}`));
    return lines.join('\n');
  }

  lastLine(): string {
    return `${this.passed} passed, ${this.failed} failed, ${this.skipped} skipped`;
  }

  #state(file = ''): FileState {
    let state = this.#files.get(file);
    if (!state) this.#files.set(file, (state = { names: [], held: [], passed: 0, failed: 0, skipped: 0, diagnostics: [] }));
    return state;
  }

  #relative(file = ''): string {
    return path.relative(this.#root, file).replaceAll(path.sep, '/');
  }

  #fail(state: FileState, title: string, about: string): string {
    this.failed++;
    state.failed++;
    this.#failures.push(title);
    return `✖ ${title}\n${about.replace(/^/gm, '    ')}\n`;
  }

  #skip(state: FileState, title: string, reason: string): void {
    this.skipped++;
    state.skipped++;
    this.#skips.set(reason, [...(this.#skips.get(reason) ?? []), title]);
  }
}

/** The error with everything in it that helps, less the runner's own frames. */
function errorText(error: unknown): string {
  // A generated message already shows actual and expected as a difference.
  const complete = error instanceof Error && 'generatedMessage' in error && error.generatedMessage === true;
  const text = complete && error.stack ? error.stack : inspect(error, { depth: 8 });
  return text.replace(/\n\s+at [^\n]*\(?node:(internal|async_hooks)[^\n]*?(?= \{|\n|$)/g, '');
}
