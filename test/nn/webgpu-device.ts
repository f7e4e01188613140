/** Whether this machine has an adapter for tests, a real one or a program that acts as one. */
import './webgpu-environment.ts';
import { dawnLibrary, describeAdapter, openDevice } from '../../core/nn/webgpu/device.ts';
import { spoiled } from './webgpu-spoil.ts';

// Whatever a test compiles finds its workgroup memory full of what is no number, not of zeros or what luck left there.
if (dawnLibrary()) {
  const { globals } = await import('webgpu');
  const { prototype } = (globals as { GPUDevice: { prototype: GPUDevice } }).GPUDevice;
  const { createShaderModule } = prototype;
  prototype.createShaderModule = function (descriptor) {
    return createShaderModule.call(this, { ...descriptor, code: spoiled(descriptor.code) });
  };
}

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

async function reasonForF32(): Promise<string | false> {
  if (noAdapter) return noAdapter;
  const { gpu, capabilities, description } = await openDevice();
  gpu.destroy();
  return capabilities.f16 ? false : `the GPU (${description}) has no f16`;
}

/** The reason when there is no adapter with f16. */
export const noF16: string | false = await reasonForF32();
