/** The TensorFlow.js executor: the suite on WebAssembly and on the native library, and what only it promises. */
import { createTensorflowExecutor } from '../../core/nn/tensorflow/index.ts';
import { operationSuite } from './suite.ts';

operationSuite('WebAssembly', () => createTensorflowExecutor({ backend: 'wasm' }));
