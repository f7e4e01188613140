/** Which buffers the WebGPU executor keeps and when it submits, on a device that only counts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { WebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import { BufferPool } from '../../core/nn/webgpu/memory.ts';
import { rehearse } from '../../core/nn/webgpu/rehearsal.ts';

const MiB = 2 ** 20;

function counted(
  limit?: number,
  largest?: number,
): { pool: BufferPool; take: (mib: number) => ReturnType<BufferPool['take']>; events: string[] } {
  const events: string[] = [];
  const createBuffer = ({ size }: GPUBufferDescriptor): object => {
    events.push(`make ${size / MiB}`);
    return { size, destroy: () => void events.push(`destroy ${size / MiB}`) };
  };
  const pool = new BufferPool({ createBuffer } as unknown as GPUDevice, limit, largest);
  return { pool, take: (mib) => pool.take(mib * MiB, () => void events.push('submit')), events };
}

test('a waiting buffer serves the next of its size, and somewhat smaller ones', () => {
  const { pool, take, events } = counted();
  pool.give(take(8));
  pool.give(take(8));
  pool.give(take(6));
  assert.deepEqual(events, ['make 8']);
  take(3);
  assert.deepEqual(events, ['make 8', 'make 3']);
  assert.equal(pool.reserved, 11 * MiB);
});

test('a waiting buffer that an array has outgrown is given back for the next one', () => {
  const { pool, take, events } = counted();
  const [small, large] = [take(8), take(20)];
  pool.give(small);
  take(10);
  assert.deepEqual(events.slice(2), ['submit', 'destroy 8', 'make 10']);
  pool.give(large);
  // Much larger than what waits: another array.
  take(30);
  assert.deepEqual(events.slice(5), ['make 30']);
  assert.equal(pool.reserved, 60 * MiB);
});

test('no buffer is larger than the device takes, though its size class is', () => {
  const { take, events } = counted(undefined, 4 * MiB - 1);
  assert.equal(take(3.98).bytes, Math.ceil((3.98 * MiB) / 256) * 256);
  take(1.5);
  take(3.98);
  assert.deepEqual(events, [`make ${4 - 256 / MiB}`, 'make 1.5', `make ${4 - 256 / MiB}`]);
});

test('beyond the limit waiting buffers make room, after the commands that use them are submitted', () => {
  const { pool, take, events } = counted(32 * MiB);
  const [small, large, used] = [take(4), take(10), take(16)];
  pool.give(large);
  pool.give(small);
  // 30 are reserved, 16 of them in use: a larger one than waits must be made.
  take(14);
  assert.deepEqual(events.slice(3), ['submit', 'destroy 10', 'destroy 4', 'make 14']);
  assert.equal(pool.reserved, 30 * MiB);
  pool.give(used);
  pool.give(take(16));
  assert.equal(events.length, 7);
  // What is in use is never given back, so the limit can be passed: the device then says whether it has room.
  take(40);
  assert.deepEqual(events.slice(7), ['submit', 'destroy 16', 'make 40']);
  assert.equal(pool.reserved, 54 * MiB);
});

test('little work waits for more, much of it is submitted in parts', (t) => {
  const { executor } = rehearse('f16');
  const { gpu } = (executor as WebgpuExecutor).engine.runtime.device;
  const submit = t.mock.method(gpu.queue, 'submit');
  const submitsOf = (products: number, n: number): number => {
    executor.within(() => {
      const x = executor.tensor(new Float32Array(n * n), [n, n]);
      (executor as WebgpuExecutor).engine.runtime.flush();
      submit.mock.resetCalls();
      for (let i = 0; i < products; i++) executor.linear(x, x, null);
    });
    return submit.mock.callCount();
  };
  assert.equal(submitsOf(300, 64), 2);
  // 0.137e12 operations each: no more than three at once.
  assert.equal(submitsOf(12, 4096), 4);
});
