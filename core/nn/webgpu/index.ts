/** Front door of the WebGPU executor. Dawn's library is loaded when the executor is started, and not before. */
export { checkApart, surveyGpus, webgpuState, type WebgpuState } from './adapters.ts';
export { assumedMemory, type GpuMemory } from './cardMemory.ts';
export { createWebgpuExecutor, type WebgpuExecutor, type WebgpuOptions } from './executor.ts';
export { prototypeLimitsOn } from './engine.ts';
export { rehearse, type ParameterShape, type Rehearsal } from './rehearsal.ts';
export { checkDriver, failedBefore, faultError, rememberFailure, type Fault } from './check/index.ts';
export type { GpuSpeed } from './speed.ts';
export type { Survey } from './survey.ts';
