/**
 * Programs for f16 and matrix units through Dawn's compiler on its null backend, which knows every feature and runs
 * nothing: what a device without them cannot check. Register use and code of a real driver are not seen here.
 */
import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { create } from 'webgpu';
import { attention, attentionBackward } from '../../core/nn/webgpu/kernels/attention.ts';
import { product, productChoices, type Epilogue, type ProductInputs } from '../../core/nn/webgpu/kernels/product.ts';
import { dawnLibrary } from '../../core/nn/webgpu/device.ts';
import type { Capabilities, Dispatch } from '../../core/nn/webgpu/program.ts';

/** An NVIDIA H100 on Vulkan. */
const capabilities: Capabilities = {
  f16: true,
  subgroups: { min: 32, max: 32 },
  matrices: [],
  workgroupStorage: 49_152,
  workgroupInvocations: 1024,
  workgroupsPerDimension: 65_535,
  bindingBytes: 2 ** 31 - 4,
};
const region = { buffer: {} as GPUBuffer, offset: 0, bytes: 2 ** 30 };
const other = { ...region, buffer: {} as GPUBuffer };

const kept = globalThis as { nullGpu?: GPU };
let device: GPUDevice;

/** @returns what the compiler has against the program, warnings included */
async function complaints({ program }: Dispatch): Promise<string[]> {
  device.pushErrorScope('validation');
  const { messages } = await device.createShaderModule({ code: program.source }).getCompilationInfo();
  const error = await device.popErrorScope();
  return [...messages.map(({ message, lineNum }) => `${program.name}, line ${lineNum}: ${message}`), ...(error ? [error.message] : [])];
}

describe('kernels that this device may not run', { skip: !dawnLibrary() && 'there is no WebGPU library here' }, () => {
  before(async () => {
    kept.nullGpu = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
    const adapter = await kept.nullGpu.requestAdapter();
    const features = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'] as unknown as GPUFeatureName[];
    device = await adapter!.requestDevice({ requiredFeatures: features });
  });

  const epilogues: Epilogue[] = [
    { kind: 'none' },
    { kind: 'bias-gelu', bias: other, slope: other },
    { kind: 'residual', bias: other, gamma: other, residual: other },
  ];
  /** NVIDIA's, those of software, AMD's (subgroups of 64), Intel's (of 16). */
  const units = [
    { M: 16, N: 16, K: 16, lanes: 32 },
    { M: 16, N: 8, K: 16, lanes: 32 },
    { M: 16, N: 8, K: 8, lanes: 32 },
    { M: 8, N: 8, K: 8, lanes: 8 },
    { M: 16, N: 16, K: 16, lanes: 64 },
    { M: 8, N: 16, K: 16, lanes: 16 },
  ].map(({ lanes, ...shape }) => {
    const caps: Capabilities = { ...capabilities, subgroups: { min: lanes, max: lanes }, matrices: [{ ...shape, result: 'f32' }] };
    return { name: `units of ${shape.M} x ${shape.N} x ${shape.K} of ${lanes} lanes`, caps };
  });
  for (const { name, caps } of units)
    it(`products with ${name} compile`, async () => {
      for (const form of ['nt', 'nn', 'tn'] as const)
        for (const epilogue of epilogues)
          for (const odd of [0, 1]) {
            const elements = { a: 'f16', b: odd ? 'f32' : 'f16', c: odd ? 'f32' : 'f16' } as const;
            const inputs: ProductInputs = {
              form,
              m: 64 + odd,
              n: 64 + odd,
              k: 64 + odd,
              a: region,
              b: region,
              c: region,
              elements,
              epilogue,
            };
            const choices = productChoices(caps, inputs);
            assert(choices.length >= 3 && choices.every((choice) => choice.shape));
            for (const choice of choices) assert.deepEqual(await complaints(product(caps, inputs, [choice])[0]!), []);
          }
    });

  const groups = [{ samples: 2, tokens: 50, tokenOffset: 0 }];
  for (const { name, caps } of units)
    it(`attention with ${name} compiles`, async () => {
      for (const headDim of [16, 32, 48, 64]) {
        const inputs = { qkv: region, out: region, lse: region, groups, heads: 6, headDim, element: 'f16' } as const;
        const backward = attentionBackward(caps, { ...inputs, dOut: region, dQkv: region, delta: region });
        const all = [...attention(caps, inputs), ...backward];
        assert.equal(all.filter(({ program }) => program.name.includes(' by ')).length, 3);
        for (const dispatch of all) assert.deepEqual(await complaints(dispatch), []);
      }
    });

  it('f16 without matrix units compiles', async () => {
    const sizes = { groups, heads: 6, headDim: 64, element: 'f16' } as const;
    const inputs = { qkv: region, out: region, lse: region, ...sizes };
    const backward = attentionBackward(capabilities, { ...inputs, dOut: region, dQkv: region, delta: region });
    for (const dispatch of [...attention(capabilities, inputs), ...backward]) assert.deepEqual(await complaints(dispatch), []);
    const elements = { a: 'f16', b: 'f16', c: 'f16' } as const;
    const [dispatch] = product(capabilities, { form: 'nt', m: 65, n: 65, k: 65, a: region, b: region, c: region, elements });
    assert.deepEqual(await complaints(dispatch!), []);
  });
});
