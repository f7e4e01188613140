/**
 * The WebGPU executor on a device that has no memory and computes nothing: what a step would hold on a GPU is counted by
 * the code that would run it, so the count follows the executor through every change. No driver is loaded.
 */
import type { Executor, ParameterSet, Precision } from '../ops.ts';
import type { Device } from './device.ts';
import { Engine, prototypeLimitsOn } from './engine.ts';
import { WebgpuExecutor } from './executor.ts';
import type { Capabilities } from './program.ts';
import { Runtime } from './runtime.ts';
import { GpuParameterSet } from './tensor.ts';

export interface Rehearsal {
  /** Everything but reading: there are no values. */
  readonly executor: Executor;
  /** Parameters without values. */
  createParameters(shapes: readonly ParameterShape[]): ParameterSet;
  /** Most bytes that were held at once, and the bytes of all buffers, which are never fewer. */
  readonly peak: { readonly held: number; readonly reserved: number };
}

export interface ParameterShape {
  readonly name: string;
  readonly shape: readonly number[];
  readonly frozen?: boolean;
}

/** What desktop GPUs offer at least. What a step holds depends on it little: by the room for split sums of products. */
const usual: Capabilities = {
  f16: false,
  subgroups: null,
  matrices: [],
  workgroupStorage: 32_768,
  workgroupInvocations: 256,
  workgroupsPerDimension: 65_535,
  bindingBytes: 2 ** 31 - 4,
};

/** @param memory bytes of the GPU, where they are known: how much is kept depends on it */
export function rehearse(
  precision: Precision = 'f32',
  {
    capabilities = { ...usual, f16: precision === 'f16' },
    memory,
  }: { readonly capabilities?: Capabilities; readonly memory?: number | undefined } = {},
): Rehearsal {
  const device: Device = { description: 'no GPU', driver: '', software: true, gpu: emptyDevice(), capabilities, timestamps: false };
  const runtime = new Runtime(device);
  return {
    executor: new WebgpuExecutor(new Engine(runtime, precision, prototypeLimitsOn(memory))),
    createParameters: (shapes) =>
      new GpuParameterSet(
        runtime,
        shapes.map((shape) => ({ ...shape, values: null })),
        precision,
      ),
    get peak() {
      return { held: runtime.peak, reserved: runtime.pool.reserved };
    },
  };
}

/** Takes every command and does none. */
function emptyDevice(): GPUDevice {
  const nothing = (): object => ({});
  const ignore = (): void => {};
  const pass = { setPipeline: ignore, setBindGroup: ignore, dispatchWorkgroups: ignore, end: ignore };
  const encoder = { beginComputePass: () => pass, copyBufferToBuffer: ignore, clearBuffer: ignore, finish: nothing };
  return {
    createBuffer: ({ size }: GPUBufferDescriptor) => ({ size, destroy: ignore }),
    createShaderModule: nothing,
    createBindGroupLayout: nothing,
    createPipelineLayout: nothing,
    createComputePipeline: nothing,
    createBindGroup: nothing,
    createCommandEncoder: () => encoder,
    queue: { writeBuffer: ignore, submit: ignore },
    addEventListener: ignore,
    limits: { maxBufferSize: Number.MAX_SAFE_INTEGER },
    lost: new Promise<never>(() => {}),
    destroy: ignore,
  } as unknown as GPUDevice;
}
