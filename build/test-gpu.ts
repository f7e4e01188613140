/** Runs the tests of the WebGPU engine on whatever adapter this machine has, named first. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { nodeFlags } from './bootstrap.mjs';

const root = path.resolve(import.meta.dirname, '..');
/** By what their paths have in common, and those of other rooms that open a device. */
const parts = ['test/nn/webgpu', 'dinov2/gpu-memory', 'dinov2/engine-lost', 'nn/card-memory', 'cli/doctor'];
const node = (args: readonly string[]) => spawnSync(process.execPath, [...nodeFlags, ...args], { cwd: root, stdio: 'inherit' });

node([path.join(root, 'test/nn/adapter.ts')]);
const { status } = node([path.join(root, 'build/test.ts'), ...parts]);
process.exitCode = status ?? 1;
