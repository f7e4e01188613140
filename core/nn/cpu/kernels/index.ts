// Everything the executor calls by name. Functions that start with k are kernels (arguments, chunk).
export * from './pool';
export { kPackRows, kPackTransposed, kProduct, kProductPacked, kProductFewRows } from './gemm';
export * from './attention';
export * from './normalize';
export * from './elementwise';
export * from './tokens';
export * from './loss';
export * from './targets';
export * from './update';
