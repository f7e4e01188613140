/** Front door of the contract: types, events, error codes. The only part of core that the renderer may import. */
export { AppError, errorFacts, type ErrorCode, type ErrorFacts } from './errors.ts';
export type * from './model.ts';
export type * from './training.ts';
export type * from './curation.ts';
export type * from './events.ts';
export { inputs, type Decision, type HostService, type Inputs } from './service.ts';
export { createRouter, type AppRouter } from './router.ts';
