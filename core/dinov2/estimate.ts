/** How long a run takes, from the arithmetic in it. */
import { batchesOfStep, ffnHidden, type ModelConfig, type RunConfig } from './config.ts';

/**
 * Arithmetic a second of the cpu executor over whole steps. One measurement: the quick preset on two cores with SIMD of eight
 * lanes, 48 to 57 images a second, of which this takes 45; with four lanes it was 26 to 35. Other cores, and more of them, are
 * extrapolated.
 */
const CPU_GIGAFLOPS_PER_CORE = 45;

/** Rough time on this machine in seconds; null when unknown. */
export function estimatedSeconds(config: RunConfig, { gpu, cores }: { readonly gpu: boolean; readonly cores: number }): number | null {
  if (gpu) return null;
  const images = config.steps * config.batch * batchesOfStep(config);
  return Math.round((images * gigaflopsPerImage(config)) / (CPU_GIGAFLOPS_PER_CORE * cores));
}

/**
 * Arithmetic of one image in one step: the teacher's forward pass, three times the student's, heads included; four times the
 * student's backbone where activations are recomputed.
 */
export function gigaflopsPerImage(config: RunConfig): number {
  const { crops, heads } = config;
  const crop = (size: number, model: ModelConfig = config.model): number => {
    const { embedDim: D, depth, patchSize: p, registers } = model;
    const ffn = (model.ffn === 'mlp' ? 2 : 3) * D * ffnHidden(model);
    const patches = (size / p) ** 2;
    const tokens = 1 + registers + patches;
    return 2 * (patches * 3 * p * p * D + depth * tokens * (4 * D * D + ffn + 2 * tokens * D));
  };
  const { embedDim: D, patchSize: p } = config.model;
  const { hidden, bottleneck, prototypes } = heads.dino;
  const row = 2 * (D * hidden + hidden * hidden + hidden * bottleneck + bottleneck * prototypes);
  const masked = 2 * config.masking.probability * ((config.masking.ratio[0] + config.masking.ratio[1]) / 2) * (crops.globalSize / p) ** 2;
  const teacher = 2 * crop(crops.globalSize, config.distillation?.model) + (2 + masked) * row;
  const backbone = 2 * crop(crops.globalSize) + crops.localCount * crop(crops.localSize);
  const student = backbone + (2 + crops.localCount + masked) * row;
  return (teacher + 3 * student + (config.recompute ? backbone : 0)) / 1e9;
}
