/** Prints the adapter that the tests of the WebGPU engine run on, or why there is none. */
import { webgpuState } from '../../core/nn/webgpu/index.ts';
import './webgpu-environment.ts';

const { adapter, problem } = await webgpuState();
console.log(adapter ? `${adapter.description}${adapter.software ? ', a program that acts as a GPU' : ''}` : `No adapter: ${problem}`);
