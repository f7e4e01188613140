/** The memory of GPUs, from where each system tells it. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { cardMemory } from '../../core/nn/webgpu/cardMemory.ts';

const MiB = 2 ** 20;
const GiB = 1024 * MiB;
const machine = {
  ...{ env: {}, platform: 'linux' as const, drm: '/nowhere', memory: 32 * GiB },
  nvidia: () => assert.fail('asked for an NVIDIA card'),
};

test("nvidia-smi's line of the adapter, and nothing where the tool is not there", () => {
  const nvidia = () => 'NVIDIA GeForce RTX 4090, 24564\nNVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 40000\n';
  assert.deepEqual(cardMemory('NVIDIA H100 80GB HBM3, Vulkan', { ...machine, nvidia }), { bytes: 40_000 * MiB, source: 'nvidia-smi' });
  assert.equal(cardMemory('NVIDIA GeForce RTX 4090, Direct3D 12', { ...machine, platform: 'win32', nvidia })?.bytes, 24_564 * MiB);
  assert.equal(cardMemory('an NVIDIA card by another name', { ...machine, nvidia })?.bytes, 24_564 * MiB);
  assert.equal(cardMemory('NVIDIA T4, Vulkan', { ...machine, nvidia: () => 'No devices were found' }), null);
  const missing = () => {
    throw new Error('spawn nvidia-smi ENOENT');
  };
  assert.equal(cardMemory('NVIDIA T4, Vulkan', { ...machine, nvidia: missing }), null);
});

test("the amdgpu driver's files: a card's own memory, or what a processor's graphics may borrow", async (t) => {
  const drm = await mkdtemp(path.join(tmpdir(), 'patchwise-drm-'));
  t.after(() => rm(drm, { recursive: true, force: true }));
  const card = async (name: string, vram: number, gtt: number): Promise<void> => {
    await mkdir(path.join(drm, name, 'device'), { recursive: true });
    await writeFile(path.join(drm, name, 'device', 'mem_info_vram_total'), `${vram}\n`);
    await writeFile(path.join(drm, name, 'device', 'mem_info_gtt_total'), `${gtt}\n`);
  };
  const found = () => cardMemory('AMD Radeon RX 7800 XT (RADV NAVI32), Vulkan', { ...machine, drm })?.bytes;
  await mkdir(path.join(drm, 'card0-DP-1'));
  assert.equal(found(), undefined);
  await card('card0', 512 * MiB, 7000 * MiB);
  assert.equal(found(), 7512 * MiB);
  await card('card1', 16_384 * MiB, 16_000 * MiB);
  assert.equal(found(), 16_384 * MiB);
});

test('graphics of a processor have half of a small machine', () => {
  const small = { ...machine, memory: 8 * GiB };
  const half = { bytes: 4 * GiB, source: "half of the machine's memory" };
  assert.deepEqual(cardMemory('Intel(R) Iris(R) Xe Graphics, Direct3D 12', { ...small, platform: 'win32' }), half);
  assert.deepEqual(cardMemory('AMD Radeon(TM) Graphics, Direct3D 12', { ...small, platform: 'win32' }), half);
});

test('one memory on Apple, the setting before all, nothing for others', () => {
  assert.equal(cardMemory('Apple M3 Pro, Metal', { ...machine, platform: 'darwin' })?.bytes, Math.floor((64 * GiB) / 3));
  const env = { PATCHWISE_GPU_MEMORY_GIB: '5.5' };
  assert.deepEqual(cardMemory('NVIDIA T4', { ...machine, env }), { bytes: 5632 * MiB, source: 'PATCHWISE_GPU_MEMORY_GIB' });
  assert.equal(cardMemory('Intel(R) Arc(TM) A770, Vulkan', machine), null);
  assert.equal(cardMemory('AMD Radeon RX 7800 XT, Direct3D 12', { ...machine, platform: 'win32' }), null);
});

test('a setting that is no number is told beside what is used instead', () => {
  const env = { PATCHWISE_GPU_MEMORY_GIB: 'plenty' };
  const { bytes, source } = cardMemory('Intel(R) Arc(tm), Vulkan', { ...machine, env })!;
  assert.equal(bytes, 8 * 1024 * MiB);
  assert.match(source, /^assumed; .*PATCHWISE_GPU_MEMORY_GIB is "plenty", no number of GiB$/);
});
