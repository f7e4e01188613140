/** Monitor lines made for tests: a healthy run, changed where a test says so. */
import type { MonitorLine } from '../../core/contract/index.ts';

/** Checkpoints of a run of 1,000 steps, 50 apart, the first untrained. */
export const COUNT = 21;

export function healthy(change: (at: number) => Partial<MonitorLine> = () => ({})): MonitorLine[] {
  return Array.from({ length: COUNT }, (_, at) => ({
    step: 50 * at,
    totalSteps: 1000,
    images: 64,
    width: 128,
    denseCorrespondence: 0.6 + 0.01 * at,
    clusterStability: 0.5 + 0.01 * at,
    viewRetrieval: 0.2 + 0.03 * at,
    classRank: 40 + at,
    patchRank: 60 + at,
    classCosine: 0.7 - 0.02 * at,
    patchCosine: 0.1,
    outlierShare: 0.001,
    loss: at === 0 ? null : 10 - 0.1 * at,
    dinoLoss: at === 0 ? null : 0.98 - 0.01 * at,
    sampleEntropy: at === 0 ? null : 0.7 - 0.01 * at,
    marginalEntropy: at === 0 ? null : 0.9,
    seconds: 1,
    ...change(at),
  }));
}
