/** Which buffers the WebGPU executor keeps, on a device that only counts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BufferPool } from '../../core/nn/webgpu/memory.ts';

const MiB = 2 ** 20;

function counted(limit?: number): { pool: BufferPool; take: (mib: number) => ReturnType<BufferPool['take']>; events: string[] } {
  const events: string[] = [];
  const createBuffer = ({ size }: GPUBufferDescriptor): object => {
    events.push(`make ${size / MiB}`);
    return { size, destroy: () => void events.push(`destroy ${size / MiB}`) };
  };
  const pool = new BufferPool({ createBuffer } as unknown as GPUDevice, limit);
  return { pool, take: (mib) => pool.take(mib * MiB, () => void events.push('submit')), events };
}

test('a waiting buffer serves the next of its size, and somewhat smaller ones', () => {
  const { pool, take, events } = counted();
  pool.give(take(8));
  pool.give(take(8));
  pool.give(take(6));
  assert.deepEqual(events, ['make 8']);
  take(5);
  assert.deepEqual(events, ['make 8', 'make 5']);
  assert.equal(pool.reserved, 13 * MiB);
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
