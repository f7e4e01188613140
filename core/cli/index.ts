/** Front door of the command line's parts: calls and their options, the terminal, jobs driven to their end, ground truth beside a folder. */
export { checkpoint, choice, count, engineOf, sourcesOf, UsageError, type Call } from './call.ts';
export { Terminal } from './terminal.ts';
export { imagesOf, openOrCreate, withService, runJob, proposalsOf, Stopped, type Stop } from './drive.ts';
export { GroundTruth } from './groundTruth.ts';
export { diagnose, diagnosisInWords, type Diagnosis } from './doctor.ts';
export { probeRun, probeTable } from './probe.ts';
export { drawSplit, readSplit } from './split.ts';
export type { LocalService } from '../host/index.ts';
