/** Whether this machine has an adapter for tests, a real one or a program that acts as one. */
import './webgpu-environment.ts';
import { describeAdapter } from '../../core/nn/webgpu/device.ts';

async function reason(): Promise<string | false> {
  try {
    await describeAdapter();
    return false;
  } catch (error) {
    return (error as Error).message;
  }
}

/** For node:test's `skip`: the reason when there is no adapter. */
export const noAdapter: string | false = await reason();
