/** What Dawn must be told for each platform's backend, and what is known of single drivers. The only place for it. */

export interface DawnOptions {
  /** How the backend is called in Dawn's options, and for people. */
  readonly backend: 'vulkan' | 'd3d12' | 'metal';
  readonly title: string;
  readonly features: readonly string[];
  /** Taken only for an adapter with matrix units; else the next one. */
  readonly forUnits?: boolean;
}

/** Timestamps in steps of 0.1 ms are of no use to a profile. */
export const dawnWithout: readonly string[] = ['timestamp_quantization'];

/**
 * Experimental extensions (subgroup matrices) are behind `allow_unsafe_apis`. Kernels keep to their own bounds, and write
 * workgroup memory before they read it: filling it with zeros would be work for every workgroup, and on SwiftShader, which
 * writes out a store for each element, most of the time of compiling.
 */
const everywhere = ['allow_unsafe_apis', 'disable_robustness', 'disable_workgroup_init'];

/** Dawn hides shader-f16 of NVIDIA cards, and with it their f16 matrix units, unless asked. */
const vulkan: DawnOptions = { backend: 'vulkan', title: 'Vulkan', features: [...everywhere, 'vulkan_enable_f16_on_nvidia'] };

/** By Node's name of the platform, in the order in which they are tried. */
export const dawnOptions: Readonly<Record<string, readonly DawnOptions[]>> = {
  linux: [vulkan],
  // What Dawn brings of Direct3D 12 knows no matrix units; a card's driver for Vulkan may.
  win32: [
    { ...vulkan, forUnits: true },
    { backend: 'd3d12', title: 'Direct3D 12', features: everywhere },
  ],
  darwin: [{ backend: 'metal', title: 'Metal', features: everywhere }],
};

/** For people with several GPUs, or whose driver for one of the backends is broken: part of an adapter's name; a backend. */
export const adapterVariable = 'PATCHWISE_GPU';
export const backendVariable = 'PATCHWISE_GPU_BACKEND';

/**
 * Subgroups of a program where the driver has several sizes. Dawn asks for one on Vulkan: twice the least, if there is such
 * a size (its FindDefaultComputeSubgroupSize).
 */
export function subgroupsOf(backend: DawnOptions['backend'], { min, max }: { min: number; max: number }): { min: number; max: number } {
  if (backend !== 'vulkan' || min === max) return { min, max };
  const size = 2 * min <= max ? 2 * min : min;
  return { min: size, max: size };
}

/** Programs that act as a GPU: right, but slower than the CPU engine. Matched with the adapter's names. */
export const softwareAdapters = /swiftshader|llvmpipe|lavapipe|microsoft basic render|\bwarp\b/i;
