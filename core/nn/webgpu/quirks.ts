/** What Dawn must be told for each platform's backend, and what is known of single drivers. The only place for it. */

export interface DawnOptions {
  /** How the backend is called in Dawn's options, and for people. */
  readonly backend: 'vulkan' | 'd3d12' | 'metal';
  readonly title: string;
  readonly features: readonly string[];
}

/** Timestamps in steps of 0.1 ms are of no use to a profile. */
export const dawnWithout: readonly string[] = ['timestamp_quantization'];

/**
 * Experimental extensions (subgroup matrices) are behind `allow_unsafe_apis`. Kernels keep to their own bounds, and write
 * workgroup memory before they read it: filling it with zeros would be work for every workgroup, and on SwiftShader, which
 * writes out a store for each element, most of the time of compiling.
 */
const everywhere = ['allow_unsafe_apis', 'disable_robustness', 'disable_workgroup_init'];

/** By Node's name of the platform. */
export const dawnOptions: Readonly<Record<string, DawnOptions>> = {
  // Dawn hides shader-f16 of NVIDIA cards on Vulkan, and with it their f16 matrix units, unless asked.
  linux: { backend: 'vulkan', title: 'Vulkan', features: [...everywhere, 'vulkan_enable_f16_on_nvidia'] },
  win32: { backend: 'd3d12', title: 'Direct3D 12', features: everywhere },
  darwin: { backend: 'metal', title: 'Metal', features: everywhere },
};

/** Programs that act as a GPU: right, but slower than the CPU engine. Matched with the adapter's names. */
export const softwareAdapters = /swiftshader|llvmpipe|lavapipe|microsoft basic render|\bwarp\b/i;
