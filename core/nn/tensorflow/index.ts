/** Front door of the TensorFlow.js executor. Nothing of TensorFlow.js is loaded before an executor is started. */
export { cudaState, cudaFolder, cudaNeeds, type BackendName, type CudaState } from './backend.ts';
export { createTensorflowExecutor, type TensorflowExecutor, type TensorflowOptions } from './executor.ts';
