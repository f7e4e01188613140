/** The WebGPU executor: the suite on the adapter of this machine, and what only it promises. */
import { createWebgpuExecutor } from '../../core/nn/webgpu/index.ts';
import { operationSuite } from './suite.ts';
import { noAdapter } from './webgpu-device.ts';

console.log(noAdapter);
operationSuite('WebGPU', () => createWebgpuExecutor());
