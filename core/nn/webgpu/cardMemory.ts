/**
 * How much memory a GPU has. WebGPU does not tell, by design; each system has its own place where it stands. Asked in the
 * process that looks for the adapter.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import path from 'node:path';

export interface GpuMemory {
  readonly bytes: number;
  /** Where the number is from, in words. */
  readonly source: string;
}

/** Overrides what is found, in GiB: for cards that nothing here knows, and to leave room for other programs. */
const variable = 'PATCHWISE_GPU_MEMORY_GIB';

/** Taken for a card that does not tell: most cards of the last years have at least this. */
export const assumedMemory: GpuMemory = { bytes: 8 * 2 ** 30, source: `assumed; ${variable} sets it` };

/** Memory of AMD cards beside which the rest is borrowed from the system: no card of its own has less. */
const borrowed = 2 * 2 ** 30;

/**
 * The memory of the adapter with this description, or null where the system does not tell. Never throws.
 * @param from for tests: the environment, the system's device files, what the cards' own tool prints, the machine's memory
 */
export function cardMemory(
  description: string,
  {
    env = process.env,
    platform = process.platform,
    drm = '/sys/class/drm',
    nvidia = askNvidia,
    memory = totalmem(),
  }: {
    readonly env?: NodeJS.ProcessEnv;
    readonly platform?: NodeJS.Platform;
    readonly drm?: string;
    readonly nvidia?: () => string;
    readonly memory?: number;
  } = {},
): GpuMemory | null {
  const text = env[variable]?.trim();
  if (text) {
    const set = Number(text);
    if (set > 0 && set < Infinity) return { bytes: Math.round(set * 2 ** 30), source: variable };
    // A setting that says nothing must show where the number is shown.
    const { bytes, source } = cardMemory(description, { env: {}, platform, drm, nvidia, memory }) ?? assumedMemory;
    return { bytes, source: `${source}; ${variable} is "${text}", no number of GiB` };
  }
  if (/nvidia|geforce|quadro|tesla/i.test(description)) return fromNvidia(description, nvidia);
  if (platform === 'linux' && /\bamd\b|radeon|radv/i.test(description)) return fromAmd(drm);
  // One memory for all; Metal lets a program have two thirds to three quarters of it.
  if (platform === 'darwin' && /apple/i.test(description))
    return { bytes: Math.floor((memory * 2) / 3), source: "two thirds of the machine's memory" };
  // Processors with graphics borrow the machine's memory, and Windows swaps where it ends instead of saying so.
  if (/intel/i.test(description) || (platform === 'win32' && /radeon(\(tm\))? graphics/i.test(description))) {
    const half = Math.floor(memory / 2);
    return half < assumedMemory.bytes ? { bytes: half, source: "half of the machine's memory" } : null;
  }
  return null;
}

function askNvidia(): string {
  const query = ['--query-gpu=name,memory.total', '--format=csv,noheader,nounits'];
  return execFileSync('nvidia-smi', query, { encoding: 'utf8', timeout: 5000, stdio: ['ignore', 'pipe', 'ignore'], windowsHide: true });
}

/** Lines of "name, MiB"; of several cards with the name the smallest, as any of them may be the adapter. */
function fromNvidia(description: string, ask: () => string): GpuMemory | null {
  let lines: string[];
  try {
    lines = ask().trim().split('\n');
  } catch {
    return null;
  }
  const cards = lines.flatMap((line) => {
    const [, name, size] = /^(.+),\s*(\d+)\s*$/.exec(line) ?? [];
    return name && size ? [{ name, bytes: Number(size) * 2 ** 20 }] : [];
  });
  const named = cards.filter(({ name }) => description.includes(name));
  const sizes = (named.length > 0 ? named : cards).map(({ bytes }) => bytes);
  return sizes.length > 0 ? { bytes: Math.min(...sizes), source: 'nvidia-smi' } : null;
}

/** Of the AMD card with the most memory, which is the one that is taken for its speed. */
function fromAmd(drm: string): GpuMemory | null {
  let names: string[];
  try {
    names = readdirSync(drm);
  } catch {
    return null;
  }
  const read = (card: string, file: string): number => {
    try {
      return Number(readFileSync(path.join(drm, card, 'device', file), 'utf8')) || 0;
    } catch {
      return 0;
    }
  };
  const sizes = names
    .filter((name) => /^card\d+$/.test(name))
    .map((card) => {
      const own = read(card, 'mem_info_vram_total');
      return own >= borrowed ? own : own + read(card, 'mem_info_gtt_total');
    });
  const most = Math.max(0, ...sizes);
  return most > 0 ? { bytes: most, source: 'the amdgpu driver' } : null;
}
