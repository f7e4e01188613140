/** Front door of the driver's check: whether a GPU computes what the kernels say. */
export { checkDriver, failedBefore, faultError, rememberFailure, type Fault } from './driver.ts';
export { firstDeviation, wrongIn } from './operations.ts';
