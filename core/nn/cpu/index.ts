/** Front door of the CPU executor. */
export { createCpuExecutor, type CpuExecutor, type CpuOptions } from './executor.ts';
