/**
 * The frozen teacher of a distillation (spec 7.2): a trained network with its heads, copied to teacher.safetensors in the
 * run's folder, so that the folder stands alone. It says what the student shall say, prototype by prototype; so its heads
 * must be there, with the student's numbers of prototypes.
 */
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { AppError } from '../contract/index.ts';
import type { ParameterSpec } from '../nn/index.ts';
import type { RunConfig } from './config.ts';
import { headShapes } from './heads.ts';
import { readSafetensors } from './safetensors.ts';
import { vitShapes } from './vit.ts';
import { keepWeights, openWeights, type OpenedWeights } from './weights/index.ts';

const teacherFile = (runDir: string): string => join(runDir, 'teacher.safetensors');
const PREFIX = 'teacher.';

/**
 * Copies a network into the folder of a run that shall learn from it.
 * @param path what `keepWeights` or a run wrote, or any file with heads that `openWeights` reads
 * @throws AppError weights-unreadable; weights-mismatch naming what does not fit
 */
export async function writeTeacher(runDir: string, config: RunConfig, path: string): Promise<void> {
  const weights = await openWeights(path);
  try {
    refuseOtherNumbers(config, weights);
    await keepWeights(weights, `${teacherFile(runDir)}.tmp`);
    await rename(`${teacherFile(runDir)}.tmp`, teacherFile(runDir));
  } finally {
    await weights.close();
  }
}

function refuseOtherNumbers({ model, heads, distillation }: RunConfig, weights: OpenedWeights): void {
  const { fileName } = weights.facts;
  const refuse = (what: string, action: string): never => {
    throw new AppError('weights-mismatch', `${fileName} cannot teach this run: ${what}.`, action);
  };
  const follow = 'Let the run follow its teacher, as the preset "distill" does.';
  if (!weights.heads?.dino) {
    const action = 'Choose a training checkpoint, or a run of this project: published weights come without heads.';
    refuse('it has no DINO head, whose prototypes the student learns', action);
  }
  if (weights.config.patchSize !== model.patchSize)
    refuse(`its patches have ${weights.config.patchSize} px, those of the student ${model.patchSize} px`, follow);
  for (const name of ['dino', 'ibot'] as const) {
    const [own, wanted] = [weights.heads?.[name]?.config.prototypes, heads[name]?.prototypes];
    if (own === wanted) continue;
    const words = (prototypes: number | undefined): string => (prototypes === undefined ? 'none' : `${prototypes} prototypes`);
    refuse(`its ${name}_head has ${words(own)}, that of the student ${words(wanted)}`, follow);
  }
  const sizes = vitShapes(weights.config);
  const expected = vitShapes(distillation!.model);
  if (String(sizes.map(({ shape }) => shape)) !== String(expected.map(({ shape }) => shape)))
    refuse('it is another network than the one that the run was made for', 'Choose the weights again, then start the run.');
}

/**
 * The parameters of the frozen teacher: `backbone.*`, `dino_head.*`, and `ibot_head.*` where it has one of its own.
 * @throws AppError run-damaged when the file is gone or damaged, or is not what the run's configuration says
 */
export async function readFrozenTeacher(runDir: string, config: RunConfig): Promise<ParameterSpec[]> {
  const { tensors } = await readSafetensors(teacherFile(runDir)).catch((error: Error) => {
    throw damaged(`cannot be read: ${error.message}`, error);
  });
  const { model } = config.distillation!;
  const heads = (['dino', 'ibot'] as const).flatMap((head) => {
    const [name, wanted] = [`${head}_head` as const, config.heads[head]];
    if (!wanted) return [];
    // Its hidden layers are its own; only the prototypes are the student's too.
    const rows = (tensor: string): number => tensors.get(`${PREFIX}${name}.${tensor}`)?.shape[0] ?? 0;
    return headShapes({ ...wanted, hidden: rows('mlp.0.weight'), bottleneck: rows('mlp.4.weight') }, model.embedDim, name);
  });
  return [...vitShapes(model).map(({ name, shape }) => ({ name: `backbone.${name}`, shape })), ...heads].map(({ name, shape }) => {
    const found = tensors.get(PREFIX + name);
    if (String(found?.shape) !== String(shape))
      throw damaged(`holds ${name} as ${found ? `[${found.shape.join(', ')}]` : 'nothing'} instead of [${shape.join(', ')}]`);
    return { name, shape, values: found!.values as Float32Array };
  });
}

const damaged = (what: string, cause?: Error): AppError =>
  new AppError(
    'run-damaged',
    `The network that this run learns from, teacher.safetensors in its folder, ${what}.`.replace(/\.\.$/, '.'),
    'Start a new run.',
    { cause },
  );
