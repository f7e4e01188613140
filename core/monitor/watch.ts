/** Watches a run: at each checkpoint its numbers, as a line of the run and an event, and a word when they are alarming. */
import { join } from 'node:path';
import type { JobEvent } from '../contract/index.ts';
import type { Backbone, LoggedMeans, RunConfig } from '../dinov2/index.ts';
import { alarmsOf } from './alarms.ts';
import { addMonitors } from './file.ts';
import { cutViews, type OpenImage, type Views } from './views.ts';

export interface WatchOptions {
  readonly runDir: string;
  readonly imageRoot: string;
  /** Instead of decoding files below imageRoot. */
  readonly openImage?: OpenImage;
}

/** With fewer there is nothing to compare. */
const FEWEST_IMAGES = 4;

export class RunWatch {
  readonly #options: WatchOptions;
  #run: { readonly config: RunConfig; readonly views: Views } | null = null;

  constructor(options: WatchOptions) {
    this.#options = options;
  }

  /** To be called at each checkpoint, after it was written. @param logged of the steps since the checkpoint before */
  async *observe(teacher: Backbone, step: number, logged: LoggedMeans | null): AsyncGenerator<JobEvent> {
    const { measure } = await import('./measure.ts');
    const { config, views } = (this.#run ??= await this.#open());
    if (views.pairs.length < FEWEST_IMAGES) return;
    const started = performance.now();
    const measures = await measure(teacher, views, config.seed);
    const line = {
      step,
      totalSteps: config.steps,
      ...measures,
      loss: logged?.total ?? null,
      dinoLoss: logged && dinoLoss(config, logged),
      sampleEntropy: logged?.sampleEntropy ?? null,
      marginalEntropy: logged?.marginalEntropy ?? null,
      seconds: (performance.now() - started) / 1000,
    };
    const lines = await addMonitors(this.#options.runDir, line);
    yield { type: 'monitors', line };
    for (const alarm of alarmsOf(lines)) {
      if (alarm.step === step) yield { type: 'log', level: 'warn', text: `${alarm.message} ${alarm.action}` };
    }
  }

  async #open(): Promise<{ config: RunConfig; views: Views }> {
    const { readRun } = await import('../dinov2/index.ts');
    const { readRgb } = await import('../images/index.ts');
    const { runDir, imageRoot } = this.#options;
    const { config, images } = await readRun(runDir);
    const open: OpenImage =
      this.#options.openImage ?? (({ path, page }) => readRgb(join(imageRoot, path), { page, maxSide: config.maxImageSide }));
    return { config, views: await cutViews(config, images, open) };
  }
}

/** Both terms are a mean over pairs of crops, times the weight; without local crops, two thirds of one (spec 5.1). */
function dinoLoss({ heads, lossWeights, crops }: RunConfig, { dinoGlobal, dinoLocal }: LoggedMeans): number {
  const guessing = lossWeights.dino * Math.log(heads.dino.prototypes) * (crops.localCount > 0 ? 1 : 2 / 3);
  return (dinoGlobal + dinoLocal) / guessing;
}
