/** Front door of the WebGPU executor. Dawn's library is loaded when the executor is started, and not before. */
export { webgpuState, type WebgpuState } from './adapters.ts';
export { createWebgpuExecutor, type WebgpuExecutor } from './executor.ts';
export { checkDriver } from './selfCheck.ts';
