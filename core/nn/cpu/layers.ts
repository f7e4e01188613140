/** The layers of a transformer block and their gradients: linear, LayerNorm, attention, SwiGLU, LayerScale residual. */
import type { Activation, GroupSubset, SampleGroup } from '../ops.ts';
import { rowsPerChunk, type Engine, type GradientTarget } from './engine.ts';
import { roundUp } from './memory.ts';
import { edgeTile, productNN, productNT, productTN } from './products.ts';
import type { CpuTensor } from './tensor.ts';
import { check, groupsOf, residualShape, rowsOf } from '../shapes.ts';

/**
 * Sums by fixed groups of rows, then over the groups: `run` fills `groups` rows of `width` partial sums at the address
 * given (0 when nobody wants them), `targets` receive them column by column.
 */
export function withPartials(
  engine: Engine,
  groups: number,
  width: number,
  targets: readonly (GradientTarget | null)[],
  run: (partials: number) => void,
): void {
  if (targets.every((target) => target === null)) {
    run(0);
    return;
  }
  const columns = width / targets.length;
  const partials = engine.room(groups * width);
  run(partials);
  targets.forEach((target, i) => {
    if (target) engine.sumRows(target.address, partials + i * columns * 4, width * 4, groups, columns, target.accumulate);
  });
  engine.giveBack(partials, groups * width);
}

/** x [..., I], weight [O, ...] with I values a row -> [..., O]. */
export function linear(engine: Engine, x: CpuTensor, weight: CpuTensor, bias: CpuTensor | null, activation: Activation): CpuTensor {
  const { rows, n: inputs } = rowsOf(x);
  const outputs = weight.shape[0] ?? 0;
  check(weight.shape.length >= 2 && weight.size === outputs * inputs && (!bias || bias.size === outputs), 'linear', x, weight, bias);
  const y = engine.make([...x.shape.slice(0, -1), outputs]);
  const wanted = engine.wants(x) || engine.wants(weight) || engine.wants(bias);
  const gelu = activation === 'gelu';
  const slope = gelu && wanted ? engine.room(y.size) : 0;
  // GELU without a bias takes zeros for it: rare, and one kernel less.
  const vector = bias ? bias.address : gelu ? zeros(engine, outputs) : 0;
  const kind = gelu ? 'bias-gelu' : bias ? 'bias' : 'none';
  productNT(engine, { m: rows, n: outputs, k: inputs }, x.address, weight.address, y.address, 0, { kind, vector, slope });
  engine.record(y, [x, weight, bias], (dy) => {
    const dBias = engine.gradient(bias);
    const per = rowsPerChunk(outputs);
    const groups = Math.ceil(rows / per);
    if (slope || dBias) {
      withPartials(engine, groups, outputs, [dBias], (partials) =>
        engine.pool.run('kBiasBackward', groups, [dy, slope, rows, outputs, per, partials]),
      );
    }
    if (slope) engine.giveBack(slope, y.size);
    const dWeight = engine.gradient(weight);
    if (dWeight) productTN(engine, { m: outputs, n: inputs, k: rows }, dy, x.address, dWeight.address, dWeight.accumulate);
    const dx = engine.gradient(x);
    if (dx) productNN(engine, { m: rows, n: inputs, k: outputs }, dy, weight.address, dx.address, dx.accumulate);
  });
  return y;
}

function zeros(engine: Engine, count: number): number {
  const address = engine.room(count);
  engine.fill(address, 0, count);
  return address;
}

export function layerNorm(engine: Engine, x: CpuTensor, weight: CpuTensor, bias: CpuTensor, epsilon: number): CpuTensor {
  const { rows, n } = rowsOf(x);
  check(weight.size === n && bias.size === n, 'layerNorm', x, weight, bias);
  const y = engine.make(x.shape);
  const wanted = engine.wants(x) || engine.wants(weight) || engine.wants(bias);
  const stats = wanted ? engine.room(rows * 2) : 0;
  const per = rowsPerChunk(n);
  const groups = Math.ceil(rows / per);
  engine.pool.run('kLayerNorm', groups, [x.address, y.address, stats, weight.address, bias.address, rows, n, epsilon, per]);
  engine.record(y, [x, weight, bias], (dy) => {
    const dWeight = engine.gradient(weight);
    const dBias = engine.gradient(bias);
    const dx = engine.gradient(x);
    // Partial sums of weight and bias side by side: [groups, 2 n].
    withPartials(engine, groups, n * 2, [dWeight, dBias], (partials) => {
      const args = [x.address, dy, dx?.address ?? 0, stats, weight.address, partials, rows, n, per, dx?.accumulate ?? 0];
      engine.pool.run('kLayerNormBackward', groups, args);
    });
  });
  return y;
}

/** Rows of scores that attention holds at once; the number of kernels/attention.ts. */
const scoreRows = 48;
/** Rows of one forward chunk: packing keys and values again for each costs about one part in a hundred. */
const forwardRows = 192;

/** qkv [N,T,3,heads,d] -> [N,T,heads,d], or of groups [R,3,heads,d] -> [R,heads,d]. */
export function attention(engine: Engine, qkv: CpuTensor, heads: number, packed?: readonly SampleGroup[]): CpuTensor {
  const width = qkv.shape.at(-1)! / 3;
  const d = width / heads;
  const places = groupsOf(qkv, heads, packed).map(({ samples: N, tokens: T, tokenOffset }) => ({
    N,
    T,
    // Bytes before the group in out and, times three, in qkv; before its rows [N,heads,T] in lse.
    start: tokenOffset * width * 4,
    lseStart: tokenOffset * heads * 4,
    // Two products of T x T x d for each sample and head.
    flops: 4 * N * heads * T * T * d,
    // Padded to whole panels.
    tokens: roundUp(T, engine.pool.columns),
  }));
  const channels = roundUp(d, engine.pool.columns);
  const out = engine.make([...qkv.shape.slice(0, -1), width]);
  const lse = engine.wants(qkv) ? engine.room((out.size / width) * heads) : 0;
  for (const { N, T, start, lseStart, flops, tokens } of places) {
    engine.pool.scratch(edgeTile + 4 * (tokens * d + channels * T + scoreRows * tokens));
    const args = [qkv.address + 3 * start, out.address + start, lse ? lse + lseStart : 0, T, heads, d, forwardRows];
    engine.pool.run('kAttention', N * heads * Math.ceil(T / forwardRows), args, flops);
  }
  engine.record(out, [qkv], (dy) => {
    const target = engine.gradient(qkv)!;
    for (const { N, T, start, lseStart, flops, tokens } of places) {
      engine.pool.scratch(edgeTile + 4 * (2 * tokens * d + channels * T + 2 * channels * scoreRows + 2 * scoreRows * tokens));
      const args = [qkv.address + 3 * start, lse + lseStart, out.address + start, dy + start, target.address + 3 * start];
      engine.pool.run('kAttentionBackward', N * heads, [...args, T, heads, d, target.accumulate], 2.5 * flops);
    }
  });
  return out;
}

export function swiglu(engine: Engine, x: CpuTensor): CpuTensor {
  const { rows, n } = rowsOf(x);
  const half = n / 2;
  check(Number.isInteger(half), 'swiglu', x);
  const y = engine.make([...x.shape.slice(0, -1), half]);
  const per = rowsPerChunk(n);
  engine.pool.run('kSwiglu', Math.ceil(rows / per), [x.address, y.address, rows, half, per]);
  engine.record(y, [x], (dy) => {
    const target = engine.gradient(x)!;
    engine.pool.run('kSwigluBackward', Math.ceil(rows / per), [x.address, dy, target.address, rows, half, target.accumulate, per]);
  });
  return y;
}

/** x [...,D] + gamma [D] * branch; of a subset, times each group's scale in the rows that take part. */
export function addResidual(engine: Engine, x: CpuTensor, branch: CpuTensor, gamma: CpuTensor, subset?: readonly GroupSubset[]): CpuTensor {
  const { rows, n, parts } = residualShape(x, branch, gamma, subset);
  const y = engine.make(x.shape);
  const per = rowsPerChunk(n);
  const places = (parts ?? [null]).map((part) => {
    if (!part) return { from: 0, to: 0, scale: 1, index: 0, tokens: rows, rows };
    const { tokens, scale } = part;
    return { from: part.from * n * 4, to: part.to * n * 4, scale, index: engine.ints(part.rows), tokens, rows: part.rows.length * tokens };
  });
  for (const { samples, tokens, rows: named, from } of parts ?? []) {
    const taking = new Set(named);
    const others = Int32Array.from({ length: samples }, (_, i) => i).filter((i) => !taking.has(i));
    // Samples without a branch keep x.
    copySamples(engine, y.address + from * n * 4, x.address + from * n * 4, others, tokens * n);
  }
  for (const { from, to, scale, index, tokens, rows: count } of places) {
    const args = [y.address + from, x.address + from, branch.address + to, gamma.address, scale, index, tokens, n, count, per];
    engine.pool.run('kResidual', Math.ceil(count / per), args);
  }
  engine.record(y, [x, branch, gamma], (dy) => {
    const dBranch = engine.gradient(branch);
    const dGamma = engine.gradient(gamma);
    const chunks = places.reduce((sum, part) => sum + Math.ceil(part.rows / per), 0);
    withPartials(engine, chunks, n, [dGamma], (partials) => {
      if (!partials && !dBranch) return;
      let before = 0;
      for (const { from, to, scale, index, tokens, rows: count } of places) {
        const shape = [scale, index, tokens, n, count, per];
        const results = [dBranch ? dBranch.address + to : 0, dBranch?.accumulate ?? 0, partials ? partials + before * n * 4 : 0];
        engine.pool.run('kResidualBackward', Math.ceil(count / per), [dy + from, branch.address + to, gamma.address, ...shape, ...results]);
        before += Math.ceil(count / per);
      }
    });
    return engine.passOn(x, dy);
  });
  return y;
}

function copySamples(engine: Engine, to: number, from: number, rows: Int32Array, size: number): void {
  for (const row of rows) engine.copy(to + row * size * 4, from + row * size * 4, size);
}
