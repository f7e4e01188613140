/** `npm run golden`: the golden checks on a folder, or on a set drawn here when none is named. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { createExecutor, type EngineName, type Executor } from '../../core/nn/index.ts';
import { ReferenceExecutor } from '../nn/reference-executor.ts';
import '../nn/webgpu-environment.ts';
import { checkFolder, passes } from './folder.ts';
import { makeGolden } from './make.ts';
import { TOLERANCE, type Precision } from './rows.ts';
import { textOf } from './table.ts';

const USAGE = `npm run golden -- [DIR] [--engine NAME] [--precision f32|f16] [--seed N]

Compares an engine with recorded numbers and prints the errors. The exit code is 0 when every file was read and no error
is out of tolerance.

  DIR           a folder with files vit-*.safetensors, train-*.safetensors + .json, augment*.safetensors + .json,
                import-*.pth or .safetensors beside import-expected.safetensors;
                without it a small set is drawn from the seed by plain float64 loops
  --engine      an engine of this machine (default: the fastest), or reference: slow float64 loops
  --precision   how close results must be: f32 (default), or f16 for an engine that stores float16
  --seed        of the set drawn without DIR (default 1)`;

async function open(engine: string): Promise<Executor> {
  return engine === 'reference' ? new ReferenceExecutor() : createExecutor({ engine: engine as EngineName });
}

async function main(): Promise<boolean> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      engine: { type: 'string', default: 'auto' },
      precision: { type: 'string', default: 'f32' },
      seed: { type: 'string', default: '1' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return true;
  }
  if (positionals.length > 1) throw new Error(`One folder at a time; these are ${positionals.length}: ${positionals.join(', ')}.`);
  if (!Object.hasOwn(TOLERANCE, values.precision)) throw new Error(`--precision is f32 or f16, not ${values.precision}.`);
  if (!/^\d+$/.test(values.seed)) throw new Error(`--seed is a whole number, not ${values.seed}.`);

  const x = await open(values.engine);
  const drawn = positionals.length === 0 ? await mkdtemp(path.join(tmpdir(), 'patchwise-golden-')) : null;
  try {
    if (drawn) await makeGolden(drawn, Number(values.seed));
    const report = await checkFolder(drawn ?? positionals[0]!, x, { precision: values.precision as Precision });
    console.log(`${drawn ? `a set drawn from seed ${values.seed}` : positionals[0]} on ${x.name} (${x.description})\n\n${textOf(report)}`);
    return passes(report);
  } finally {
    if (drawn) await rm(drawn, { recursive: true });
    await x.dispose();
  }
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  process.exitCode = 2;
}
