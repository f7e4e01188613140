/**
 * Compiles, binds and runs dispatches on a device, in the order they are given and without waiting: only `read` waits.
 * Commands gather in one encoder and are submitted in batches. What goes wrong on the device is thrown by the next call.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../../contract/index.ts';
import { openDevice, type Device } from './device.ts';
import { BufferPool, Uploads, classBytes, usage } from './memory.ts';
import { alignedBytes, type Capabilities, type Dispatch, type Program, type Region } from './program.ts';
import { Staging, stagedBytes } from './staging.ts';
import { Profile, type ProgramTime } from './profile.ts';

/** Dispatches to a submit: enough that submitting costs little, few enough that the device is not kept idle. */
const batchSize = 128;
/**
 * Operations to a submit: systems take a GPU for dead after two seconds of one, which the slowest of them reaches with so
 * many; the fastest does them in a few milliseconds.
 */
const mostFlops = 4e11;
/** Bytes between the uniforms of two dispatches: the largest alignment a device may ask for. */
const uniformStride = 256;
/** Part of a read's likely wait that is slept, where that is no less than so many ms; never more than so many. */
const slept = { part: 0.75, least: 4, most: 100 } as const;
/** Uploads up to this size share buffers. */
const smallUpload = 2 ** 18;

interface Compiled {
  readonly id: number;
  readonly program: Program;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Bind groups that are remembered; a step makes about a thousand. */
const rememberedGroups = 16_384;

export interface RuntimeOptions {
  /** Measures every dispatch (`profile`): each then has a pass of its own, which is slower. */
  readonly profile?: boolean;
  /** Bytes that buffers may take before unused ones are given back to the device; absent: they are kept. */
  readonly memoryLimit?: number;
  /** false: as if the device had no matrix units. */
  readonly matrixUnits?: boolean;
}

export class Runtime {
  readonly device: Device;
  readonly capabilities: Capabilities;
  readonly pool: BufferPool;
  readonly #gpu: GPUDevice;
  readonly #uploads: Uploads;
  /** null where `writeBuffer` writes to the device's memory itself. */
  readonly #staging: Staging | null;
  readonly #compiled = new Map<string, Compiled>();
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly #bufferIds = new WeakMap<GPUBuffer, number>();
  readonly #uniforms: GPUBuffer;
  readonly #uniformData = new DataView(new ArrayBuffer(batchSize * uniformStride));
  /** Buffers that `read` copies to, by size. */
  readonly #readbacks = new Map<number, GPUBuffer[]>();
  readonly #profile: Profile | null;
  #buffers = 0;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  /** Dispatches in the encoder. */
  #pending = 0;
  /** Their operations. */
  #flops = 0;
  #held = 0;
  #peak = 0;
  /** Done when the last read that was asked for is. */
  #arrived: Promise<void> = Promise.resolve();
  /** Operations given since the last read, and how long one of them let a read wait. */
  #unread = 0;
  #waitPerFlop = 0;
  #failure: AppError | null = null;
  #ended = false;
  readonly #submit = (): void => this.flush();

  constructor(device: Device, { profile = false, memoryLimit }: RuntimeOptions = {}) {
    this.device = device;
    this.capabilities = device.capabilities;
    this.#gpu = device.gpu;
    this.pool = new BufferPool(device.gpu, memoryLimit, device.gpu.limits.maxBufferSize);
    this.#uploads = new Uploads(this.pool, this.#submit);
    this.#staging = device.software ? null : new Staging(device.gpu);
    this.#uniforms = device.gpu.createBuffer({ size: batchSize * uniformStride, usage: usage.uniform | usage.copyTarget });
    if (profile && !device.timestamps) throw new Error(`The GPU (${device.description}) cannot measure how long its work takes.`);
    this.#profile = profile ? new Profile(device.gpu, batchSize) : null;
    device.gpu.addEventListener('uncapturederror', (event) => {
      event.preventDefault();
      this.#fail(event.error.constructor.name === 'GPUOutOfMemoryError' ? 'memory' : 'fault', event.error.message);
    });
    void device.gpu.lost.then(({ message }) => {
      if (!this.#ended) this.#fail('lost', message);
    });
  }

  /** @throws Error when there is no GPU, with the reason */
  static async open(options: RuntimeOptions = {}): Promise<Runtime> {
    const device = await openDevice();
    const plain = { ...device, capabilities: { ...device.capabilities, matrices: [] } };
    return new Runtime(options.matrixUnits === false ? plain : device, options);
  }

  // --- what went wrong ---

  #fail(kind: 'memory' | 'fault' | 'lost', message: string): void {
    if (this.#failure) return;
    const gpu = this.device.description;
    const detail = message.split('\n')[0]!.trim();
    const what = {
      memory: `The GPU (${gpu}) has no room for this: ${(this.#held / 2 ** 30).toFixed(2)} GiB were in use. ${detail}`,
      fault: `The GPU (${gpu}) refused a command: ${message.trim()}`,
      lost: `The GPU (${gpu}) stopped working: ${detail || 'its driver gave no reason'}`,
    }[kind];
    this.#failure =
      kind === 'memory'
        ? new AppError(
            'engine-out-of-memory',
            what,
            'Take a smaller batch, smaller crops or a smaller network, or close other programs that use the GPU; from the command line, --recompute.',
          )
        : new AppError(
            'engine-died',
            what,
            'Go on from the last checkpoint. If it comes back, update the graphics driver or use the cpu engine.',
          );
  }

  #check(): void {
    if (this.#ended) throw new Error('The GPU engine was closed.');
    if (this.#failure) throw this.#failure;
  }

  // --- memory ---

  /** Bytes of regions handed out. */
  get held(): number {
    return this.#held;
  }

  /** The most of them at once, since the start. */
  get peak(): number {
    return this.#peak;
  }

  /** Undefined contents; `bytes` of the region are rounded up. */
  take(bytes: number): Region {
    this.#check();
    const limit = this.capabilities.bindingBytes;
    if (alignedBytes(bytes) > limit) {
      const [wanted, most] = [bytes, limit].map((count) => `${(count / 2 ** 20).toFixed(0)} MiB`);
      throw new AppError(
        'engine-out-of-memory',
        `An array of ${wanted} is needed; the GPU (${this.device.description}) takes ${most} in one.`,
        'Take a smaller batch, fewer prototypes or a smaller network.',
      );
    }
    return this.#hold(this.pool.take(bytes, this.#submit));
  }

  /** A region with these values. */
  upload(data: ArrayBufferView): Region {
    if (data.byteLength > smallUpload) {
      const region = this.take(data.byteLength);
      this.write(region, data);
      return region;
    }
    this.#check();
    return this.#hold(this.#uploads.take(data));
  }

  #hold(region: Region): Region {
    this.#held += region.bytes;
    this.#peak = Math.max(this.#peak, this.#held);
    return region;
  }

  /** Takes a region of `take` or `upload` back. */
  give(region: Region): void {
    this.#held -= region.bytes;
    if (!this.#uploads.give(region)) this.pool.give(region);
  }

  /** Overwrites the beginning of a region of `take`, after all work given before; up to three bytes behind become undefined. */
  write({ buffer, offset }: Region, data: ArrayBufferView): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (this.#staging && bytes.length > 0 && bytes.length <= stagedBytes) {
      const from = this.#staging.put(bytes);
      this.#endPass();
      this.#encoder ??= this.#gpu.createCommandEncoder();
      this.#encoder.copyBufferToBuffer(from.buffer, from.offset, buffer, offset, from.count);
      return;
    }
    this.flush();
    // The device takes multiples of four.
    const whole = bytes.length - (bytes.length % 4);
    if (whole > 0) this.#gpu.queue.writeBuffer(buffer, offset, bytes, 0, whole);
    if (whole === bytes.length) return;
    const rest = new Uint8Array(4);
    rest.set(bytes.subarray(whole));
    this.#gpu.queue.writeBuffer(buffer, offset + whole, rest);
  }

  /** Fills a region with zeros, after all work given before. */
  clear({ buffer, offset, bytes }: Region): void {
    this.#check();
    this.#endPass();
    this.#encoder ??= this.#gpu.createCommandEncoder();
    this.#encoder.clearBuffer(buffer, offset, bytes);
  }

  /** @param bytes how many to read from the beginning; rounded up to multiples of four */
  async read({ buffer, offset, bytes: all }: Region, bytes = all): Promise<ArrayBuffer> {
    this.#check();
    const count = Math.ceil(bytes / 4) * 4;
    const size = classBytes(count);
    const target = this.#readbacks.get(size)?.pop() ?? this.#gpu.createBuffer({ size, usage: usage.mapRead | usage.copyTarget });
    this.#endPass();
    this.#encoder ??= this.#gpu.createCommandEncoder();
    if (count > 0) this.#encoder.copyBufferToBuffer(buffer, offset, target, 0, count);
    this.flush();
    const before = this.#arrived;
    const work = this.#unread;
    this.#unread = 0;
    const arrived = before.then(() => this.#mapped(target, Math.max(count, 4), work));
    this.#arrived = arrived.catch(() => {}); // told below
    await arrived;
    this.#check();
    const values = target.getMappedRange(0, Math.max(count, 4)).slice(0, bytes);
    target.unmap();
    const waiting = this.#readbacks.get(size);
    if (waiting) waiting.push(target);
    else this.#readbacks.set(size, [target]);
    return values;
  }

  /**
   * Waits until the buffer can be read. While it is awaited Dawn's binding polls without a pause, which takes a whole core: so
   * they are awaited one by one, in the order of the device's work, and most of the time slept.
   * @param work operations that come before it and after the last read
   */
  async #mapped(target: GPUBuffer, bytes: number, work: number): Promise<void> {
    const begun = performance.now();
    const nap = Math.min(slept.part * work * this.#waitPerFlop, slept.most);
    if (nap >= slept.least) await sleep(nap);
    const awake = performance.now();
    try {
      await target.mapAsync(1, 0, bytes);
    } catch (error) {
      // Errors of the device arrive as events of their own, before or right after.
      await new Promise(setImmediate);
      this.#check();
      this.#fail('fault', (error as Error).message);
    }
    const ready = performance.now();
    if (work === 0) return;
    // What was there at once may have been there for long: the work before included compiling, or another program's.
    if (nap >= slept.least && ready - awake < 1) this.#waitPerFlop /= 4;
    else this.#waitPerFlop = (ready - begun) / work;
  }

  // --- work ---

  run(dispatches: readonly Dispatch[]): void {
    this.#check();
    for (const dispatch of dispatches) this.#dispatch(dispatch);
  }

  #dispatch(dispatch: Dispatch): void {
    const { program, regions, uniforms, workgroups, flops = 0 } = dispatch;
    if (workgroups.some((count) => count > this.capabilities.workgroupsPerDimension))
      throw new Error(`${program.name}: ${workgroups.join(' x ')} workgroups are more than the GPU takes.`);
    if (workgroups.includes(0)) return;
    const compiled = this.#compile(program);
    const group = this.#group(compiled, regions);
    this.#encoder ??= this.#gpu.createCommandEncoder();
    const pass = this.#profile
      ? this.#encoder.beginComputePass({ timestampWrites: this.#profile.next(dispatch) })
      : (this.#pass ??= this.#encoder.beginComputePass());
    pass.setPipeline(compiled.pipeline);
    if (program.uniforms.length > 0) {
      const at = this.#pending * uniformStride;
      this.#writeUniforms(program, uniforms, at);
      pass.setBindGroup(0, group, [at]);
    } else pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...workgroups);
    if (this.#profile) pass.end();
    this.#flops += flops;
    this.#unread += flops;
    if (++this.#pending === batchSize || this.#flops > mostFlops) this.flush();
  }

  #writeUniforms({ name, uniforms: specs }: Program, values: Readonly<Record<string, number>>, at: number): void {
    specs.forEach(({ name: uniform, type }, i) => {
      const value = values[uniform];
      if (value === undefined) throw new Error(`${name}: the uniform ${uniform} is not given.`);
      if (type === 'f32') this.#uniformData.setFloat32(at + i * 4, value, true);
      else this.#uniformData.setInt32(at + i * 4, value, true);
    });
  }

  #compile(program: Program): Compiled {
    const known = this.#compiled.get(program.name);
    if (known) {
      if (known.program !== program && known.program.source !== program.source) throw new Error(`Two programs are called ${program.name}.`);
      return known;
    }
    const { name, source, bindings, uniforms } = program;
    const entries: GPUBindGroupLayoutEntry[] = bindings.map(({ access }, binding) => ({
      binding,
      visibility: 4, // compute
      buffer: { type: access === 'read' ? 'read-only-storage' : 'storage' },
    }));
    if (uniforms.length > 0) entries.push({ binding: bindings.length, visibility: 4, buffer: { type: 'uniform', hasDynamicOffset: true } });
    const layout = this.#gpu.createBindGroupLayout({ label: name, entries });
    const pipeline = this.#gpu.createComputePipeline({
      label: name,
      layout: this.#gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: this.#gpu.createShaderModule({ label: name, code: source }), entryPoint: 'main' },
    });
    const compiled = { id: this.#compiled.size, program, pipeline, layout };
    this.#compiled.set(name, compiled);
    return compiled;
  }

  #group({ id, program, layout }: Compiled, regions: readonly Region[]): GPUBindGroup {
    if (regions.length !== program.bindings.length)
      throw new Error(`${program.name}: ${regions.length} arrays for ${program.bindings.length} bindings.`);
    let key = `${id}`;
    for (const { buffer, offset, bytes } of regions) key += `,${this.#idOf(buffer)}:${offset}:${bytes}`;
    const known = this.#groups.get(key);
    if (known) return known;
    const entries: GPUBindGroupEntry[] = regions.map(({ buffer, offset, bytes }, binding) => ({
      binding,
      resource: { buffer, offset, size: bytes },
    }));
    if (program.uniforms.length > 0) {
      // Uniform structs are padded to 16 bytes.
      const size = Math.ceil(program.uniforms.length / 4) * 16;
      entries.push({ binding: regions.length, resource: { buffer: this.#uniforms, offset: 0, size } });
    }
    if (this.#groups.size >= rememberedGroups) this.#groups.clear();
    const group = this.#gpu.createBindGroup({ layout, entries });
    this.#groups.set(key, group);
    return group;
  }

  #idOf(buffer: GPUBuffer): number {
    let id = this.#bufferIds.get(buffer);
    if (id === undefined) this.#bufferIds.set(buffer, (id = ++this.#buffers));
    return id;
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = null;
  }

  /** Submits what was given so far; does not wait. */
  flush(): void {
    this.#check();
    if (this.#encoder) {
      this.#endPass();
      this.#profile?.resolve(this.#encoder);
      const { queue } = this.#gpu;
      this.#uploads.write(queue);
      this.#staging?.beforeSubmit();
      if (this.#pending > 0) queue.writeBuffer(this.#uniforms, 0, this.#uniformData.buffer, 0, this.#pending * uniformStride);
      queue.submit([this.#encoder.finish()]);
      this.#staging?.afterSubmit();
      this.#profile?.submitted();
      this.#encoder = null;
      this.#pending = this.#flops = 0;
    }
    this.#uploads.settle();
  }

  /** Waits until everything given so far has run. @throws AppError when any of it failed */
  async settle(): Promise<void> {
    this.flush();
    await this.#gpu.queue.onSubmittedWorkDone();
    this.#check();
  }

  /** Time on the device by program since the start or the last call. @throws Error unless opened to measure */
  async profile(): Promise<Map<string, ProgramTime>> {
    if (!this.#profile) throw new Error('The runtime was not opened to measure.');
    this.flush();
    return this.#profile.take();
  }

  /** Gives everything back to the device. */
  dispose(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#gpu.destroy();
  }
}
