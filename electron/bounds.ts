/** Where the window was when it was last closed: a small JSON file in the app's own folder. */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export interface Bounds {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface WindowState extends Bounds {
  readonly maximized: boolean;
}

const smallest = { width: 640, height: 480 };

/**
 * The remembered state when it is whole and on a display that is there, else null: a window must not open where its
 * title bar cannot be reached.
 */
export function readWindowState(file: string, displays: readonly Bounds[]): WindowState | null {
  let state: WindowState;
  try {
    state = JSON.parse(readFileSync(file, 'utf8')) as WindowState;
  } catch {
    return null;
  }
  const { x, y, width, height, maximized } = state ?? {};
  if (![x, y, width, height].every(Number.isInteger) || width < smallest.width || height < smallest.height) return null;
  const reachable = displays.some(
    (display) =>
      x < display.x + display.width - 100 && x + width > display.x + 100 && y >= display.y && y < display.y + display.height - 50,
  );
  return reachable ? { x, y, width, height, maximized: maximized === true } : null;
}

/** Written as a temporary name, then renamed. */
export function writeWindowState(file: string, state: WindowState): void {
  mkdirSync(path.dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, JSON.stringify(state));
  renameSync(temporary, file);
}
