/** All that this room can tell of the machine's GPUs: adapters, measured speed, the driver's check. Loads the driver. */
import { createCpuExecutor } from '../cpu/index.ts';
import { cardMemory, type GpuMemory } from './cardMemory.ts';
import { describeAdapters, type AdapterDetails } from './device.ts';
import { createWebgpuExecutor, type WebgpuExecutor, type WebgpuOptions } from './executor.ts';
import { wrongIn } from './check/index.ts';
import { measureSpeed, type GpuSpeed } from './speed.ts';

/** How the engine would compute. */
export type CheckedWay = Pick<WebgpuOptions, 'precision' | 'matrixUnits'>;

/** What is found out, one after the other: a driver that crashes leaves what came before. */
export interface Survey {
  /** The first is the one that the engine opens. */
  readonly adapters?: readonly (AdapterDetails & { readonly memory: GpuMemory | null })[];
  /** Of the first. */
  readonly speed?: GpuSpeed;
  /** Empty when it computes rightly; else what is wrong. Absent when it was not checked. */
  readonly check?: string;
  /** Why something is missing. */
  readonly problem?: string;
}

/** @param check also a program that acts as a GPU, which takes minutes for it */
export async function* survey(check: boolean): AsyncGenerator<Survey> {
  const adapters = await describeAdapters();
  yield { adapters: adapters.map((adapter) => ({ ...adapter, memory: adapter.software ? null : cardMemory(adapter.description) })) };
  const executor = await createWebgpuExecutor();
  try {
    yield { speed: await measureSpeed(executor.engine) };
    if (adapters[0]!.software && !check) return;
    yield { check: await wrongBeside(executor) };
  } finally {
    await executor.dispose();
  }
}

/**
 * What the driver does wrongly, in words; empty when all is right.
 * @throws Error as `createWebgpuExecutor`
 */
export async function checkAdapter(options: CheckedWay): Promise<string> {
  const executor = await createWebgpuExecutor(options);
  try {
    return await wrongBeside(executor);
  } finally {
    await executor.dispose();
  }
}

async function wrongBeside(executor: WebgpuExecutor): Promise<string> {
  const reference = await createCpuExecutor({ threads: 1 });
  try {
    return await wrongIn(executor, reference);
  } finally {
    await reference.dispose();
  }
}
