/**
 * Front door of monitor: what a run's checkpoints are worth without labels. The host asks for alarms and the choice, so
 * networks and measures are loaded only where a run is watched.
 */
export { alarmsOf } from './alarms.ts';
export { chosenCheckpoint } from './choose.ts';
export { parseMonitors, readMonitors } from './file.ts';
export { RunWatch, type WatchOptions } from './watch.ts';
