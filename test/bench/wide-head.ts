// Memory and time of one head on the cpu engine: teacher's targets of the masked patches, the student's iBOT loss and its
// gradients. Run: node test/bench/wide-head.ts [--prototypes N] [--masked N] [--kind sinkhorn|softmax] [--threads N]
import { parseArgs } from 'node:util';
import { headForward, headParameters, prototypesOf } from '../../core/dinov2/heads.ts';
import { createCpuExecutor } from '../../core/nn/cpu/index.ts';
import type { TargetKind } from '../../core/nn/index.ts';
import { Random } from '../../core/random.ts';

const { values } = parseArgs({
  options: {
    prototypes: { type: 'string', default: '131072' },
    masked: { type: 'string', default: '2438' },
    kind: { type: 'string', default: 'sinkhorn' },
    threads: { type: 'string', default: '2' },
  },
});
const [K, M] = [Number(values.prototypes), Number(values.masked)];
const embedDim = 384;
const x = await createCpuExecutor({ threads: Number(values.threads) });
const random = new Random(1);
const head = { hidden: 2048, bottleneck: 256, prototypes: K };
const create = (): ReturnType<typeof x.createParameters> => x.createParameters(headParameters(head, embedDim, random, 'ibot_head'));
const [teacher, student] = [create(), create()];
const mebibytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20).toLocaleString('en-US')} MiB`;
const parameters = x.memoryBytes();
const tokens = (): Float32Array => Float32Array.from({ length: M * embedDim }, () => random.normal());
const index = Int32Array.from({ length: M }, (_, i) => i);

await x.scope(async () => {
  const start = performance.now();
  const rows = headForward(x, teacher, 'ibot_head', x.tensor(tokens(), [M, embedDim]));
  const { weightV, weightG } = prototypesOf(teacher, 'ibot_head');
  const how: TargetKind =
    values.kind === 'sinkhorn'
      ? { kind: 'sinkhorn', temperature: 0.04, iterations: 3 }
      : { kind: 'softmax', temperature: 0.04, center: x.tensor(new Float32Array(K), [K]) };
  const targets = x.prototypeTargets(rows, weightV, weightG, how);
  const made = performance.now();
  const { loss } = x.gradients(student, () =>
    x.prototypeLoss({
      rows: headForward(x, student, 'ibot_head', x.tensor(tokens(), [M, embedDim])),
      ...prototypesOf(student, 'ibot_head'),
      targets,
      targetRows: index,
      rowWeights: new Float32Array(M).fill(1 / M),
      temperature: 0.1,
    }),
  );
  const end = performance.now();
  const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
  console.log(`${M} masked patches, ${K.toLocaleString('en-US')} prototypes, ${values.kind}, ${x.description}`);
  console.log(`loss ${(await x.read(loss))[0]!.toFixed(4)} (log K is ${Math.log(K).toFixed(4)})`);
  console.log(`logits whole: ${mebibytes(4 * M * K)}; parameters and gradients of both heads: ${mebibytes(parameters)}`);
  console.log(`held at the end: ${mebibytes(x.memoryBytes())}; taken from the system: ${mebibytes(x.engine.heap.reserved)}`);
  console.log(`targets ${seconds(made - start)}, loss and gradients ${seconds(end - made)}`);
});
await x.dispose();
