/**
 * Opens a GPU through Dawn (npm `webgpu`) and reads once what kernels may use on it. Dawn's library is loaded here, when
 * first asked for, and nowhere else.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { matrixShape } from './kernels/productMatrix.ts';
import { adapterVariable, backendVariable, dawnOptions, dawnWithout, softwareAdapters, subgroupsOf, type DawnOptions } from './quirks.ts';
import type { Capabilities, MatrixShape } from './program.ts';

export interface AdapterFacts {
  /** "NVIDIA H100 80GB HBM3, Vulkan": for people. */
  readonly description: string;
  /** What the driver says of itself, its version with most; may be empty. */
  readonly driver: string;
  /** True of a program that acts as a GPU. */
  readonly software: boolean;
  /** Whether it computes in f16; absent: not known. */
  readonly f16?: boolean;
}

export interface Device extends AdapterFacts {
  readonly gpu: GPUDevice;
  readonly capabilities: Capabilities;
  /** The device can measure how long its passes take. */
  readonly timestamps: boolean;
}

/** What Dawn's adapters tell beyond the standard. */
interface DawnAdapterInfo {
  readonly subgroupMatrixConfigs?: readonly {
    readonly componentType: string;
    readonly resultComponentType: string;
    readonly M: number;
    readonly N: number;
    readonly K: number;
  }[];
}

/** Dawn's features beyond the types of the standard have to pass for these. */
const wantedFeatures = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix', 'timestamp-query'] as readonly GPUFeatureName[];

/** Limits whose default is lower than what kernels can use. */
const wantedLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupsPerDimension',
] as const satisfies readonly (keyof GPUSupportedLimits)[];

/** Where Dawn's library for this machine lies, or null where the package has none. */
export function dawnLibrary(): string | null {
  const folder = path.dirname(createRequire(import.meta.url).resolve('webgpu/package.json'));
  const machine = process.platform === 'darwin' ? 'darwin-universal' : `${process.platform}-${process.arch}`;
  const file = path.join(folder, 'dist', machine, 'dawn.node');
  return existsSync(file) ? file : null;
}

/** Dawn crashes at random once an object from `create` is collected: they stay reachable for the life of the process. */
const kept = globalThis as { patchwiseGpus?: Map<string, GPU> };

async function startDawn({ backend, features }: DawnOptions): Promise<GPU> {
  kept.patchwiseGpus ??= new Map();
  const known = kept.patchwiseGpus.get(backend);
  if (known) return known;
  const { create } = await import('webgpu');
  const flags = [`enable-dawn-features=${features.join(',')}`, `disable-dawn-features=${dawnWithout.join(',')}`];
  const wanted = process.env[adapterVariable]?.trim();
  const gpu = create([`backend=${backend}`, ...flags, ...(wanted ? [`adapter=${wanted}`] : [])]);
  kept.patchwiseGpus.set(backend, gpu);
  return gpu;
}

/** The backends to try on this machine. @throws Error when the setting names none of them */
function backends(): readonly DawnOptions[] {
  const all = dawnOptions[process.platform];
  if (!all || !dawnLibrary()) throw new Error(`There is no WebGPU library for ${process.platform} on ${process.arch}.`);
  const wanted = process.env[backendVariable]?.trim();
  if (!wanted) return all;
  const named = all.filter(({ backend }) => backend === wanted).map((options) => ({ ...options, forUnits: false }));
  if (named.length === 0)
    throw new Error(`${backendVariable} is "${wanted}"; here it can be ${all.map(({ backend }) => backend).join(' or ')}.`);
  return named;
}

interface Found {
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
  readonly options: DawnOptions;
}

/** @throws Error when the platform has no library or the machine no adapter */
async function findAdapter(): Promise<Found> {
  let problem = '';
  for (const options of backends()) {
    const gpu = await startDawn(options);
    let adapter: GPUAdapter | null = null;
    try {
      adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
      problem = `no driver for ${options.title} answered`;
    } catch (error) {
      // Where one was asked for by name, Dawn lists the others below.
      problem = (error as Error).message.replace(/\s+Available adapters:\s+\* /, '; there are ').replaceAll(/\s+\* /g, '; ');
    }
    if (!adapter) continue;
    const found = { gpu, adapter, options };
    if (!options.forUnits || matrixShape(capabilitiesOf(adapter, found))) return found;
  }
  throw new Error(`WebGPU found no GPU: ${problem}.`);
}

function factsOf({ info, features }: GPUAdapter, { title }: DawnOptions): AdapterFacts {
  const software = info.isFallbackAdapter || softwareAdapters.test(`${info.architecture} ${info.device} ${info.description}`);
  const device = software || /^0x/.test(info.device) ? '' : info.device;
  const name = device || info.description || `${info.vendor} ${info.architecture}`.trim();
  return { description: `${name || 'an unnamed GPU'}, ${title}`, driver: info.description, software, f16: features.has('shader-f16') };
}

/**
 * Which adapter `openDevice` would open. A broken driver can crash the process: ask in one that may die.
 * @throws Error when the platform has no library or the machine no adapter
 */
export async function describeAdapter(): Promise<AdapterFacts> {
  const { adapter, options } = await findAdapter();
  return factsOf(adapter, options);
}

export interface AdapterDetails extends AdapterFacts {
  readonly vendor: string;
  readonly architecture: string;
  readonly backend: string;
  readonly capabilities: Capabilities;
  readonly timestamps: boolean;
  /** Bytes of the largest buffer that may be asked for; says nothing of the memory there is. */
  readonly bufferBytes: number;
}

/**
 * All adapters that WebGPU tells apart: the fastest, which `openDevice` would open, and the thriftiest where it is another.
 * @throws Error as `describeAdapter`
 */
export async function describeAdapters(): Promise<AdapterDetails[]> {
  const { gpu, adapter: fastest, options } = await findAdapter();
  const thriftiest = await gpu.requestAdapter({ powerPreference: 'low-power' });
  const all = [fastest, ...(thriftiest ? [thriftiest] : [])].map((adapter) => ({
    ...factsOf(adapter, options),
    vendor: adapter.info.vendor,
    architecture: adapter.info.architecture,
    backend: options.title,
    capabilities: capabilitiesOf(adapter, { adapter, options }),
    timestamps: adapter.features.has('timestamp-query'),
    bufferBytes: adapter.limits.maxBufferSize,
  }));
  return all.filter(({ description }, i) => all.findIndex((other) => other.description === description) === i);
}

/**
 * Opens the fastest adapter of the machine with all that kernels may use.
 * @throws Error when the platform has no library, the machine no adapter, or the adapter refuses
 */
export async function openDevice(): Promise<Device> {
  const { adapter, options } = await findAdapter();
  const facts = factsOf(adapter, options);
  const features = wantedFeatures.filter((feature) => adapter.features.has(feature));
  let gpu: GPUDevice;
  try {
    gpu = await adapter.requestDevice({
      requiredFeatures: features,
      requiredLimits: Object.fromEntries(wantedLimits.map((limit) => [limit, adapter.limits[limit]])),
    });
  } catch (error) {
    throw new Error(`The GPU (${facts.description}) cannot be opened: ${(error as Error).message}`, { cause: error });
  }
  return { ...facts, gpu, capabilities: capabilitiesOf(gpu, { adapter, options }), timestamps: gpu.features.has('timestamp-query') };
}

/** Of an adapter, or of a device opened on it. */
function capabilitiesOf(
  { features, limits }: Pick<GPUAdapter, 'features' | 'limits'>,
  { adapter: { info }, options: { backend } }: Omit<Found, 'gpu'>,
): Capabilities {
  const has = (feature: string): boolean => (features as ReadonlySet<string>).has(feature);
  const configs = (info as DawnAdapterInfo).subgroupMatrixConfigs ?? [];
  const matrices = configs.flatMap(({ componentType, resultComponentType: result, M, N, K }): MatrixShape[] =>
    componentType === 'f16' && (result === 'f32' || result === 'f16') ? [{ M, N, K, result }] : [],
  );
  return {
    f16: has('shader-f16'),
    subgroups: has('subgroups') ? subgroupsOf(backend, { min: info.subgroupMinSize ?? 4, max: info.subgroupMaxSize ?? 128 }) : null,
    matrices: has('chromium-experimental-subgroup-matrix') && has('shader-f16') ? matrices : [],
    workgroupStorage: limits.maxComputeWorkgroupStorageSize,
    workgroupInvocations: limits.maxComputeInvocationsPerWorkgroup,
    workgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
    bindingBytes: limits.maxStorageBufferBindingSize,
  };
}
