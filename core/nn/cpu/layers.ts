/** The layers of a transformer block and their gradients: linear, LayerNorm, attention, SwiGLU, LayerScale residual. */
import type { Activation, BatchSubset } from '../ops.ts';
import { rowsPerChunk, type Engine, type GradientTarget } from './engine.ts';
import { roundUp } from './memory.ts';
import { edgeTile, productNN, productNT, productTN } from './products.ts';
import type { CpuTensor } from './tensor.ts';
import { check, checkRows, rowsOf } from '../shapes.ts';

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

/** qkv [N,T,3,heads,d] -> [N,T,heads,d]. */
export function attention(engine: Engine, qkv: CpuTensor, heads: number): CpuTensor {
  const [N = 0, T = 0, width = 0] = qkv.shape;
  const d = width / 3 / heads;
  check(qkv.shape.length === 3 && Number.isInteger(d) && d > 0, `attention with ${heads} heads`, qkv);
  const out = engine.make([N, T, width / 3]);
  const lse = engine.wants(qkv) ? engine.room(N * heads * T) : 0;
  // Padded to whole panels.
  const tokens = roundUp(T, engine.pool.columns);
  const channels = roundUp(d, engine.pool.columns);
  engine.pool.scratch(edgeTile + 4 * (tokens * d + channels * T + scoreRows * tokens));
  const groups = Math.ceil(T / forwardRows);
  // Two products of T x T x d for each sample and head.
  const flops = 4 * N * heads * T * T * d;
  engine.pool.run('kAttention', N * heads * groups, [qkv.address, out.address, lse, T, heads, d, forwardRows], flops);
  engine.record(out, [qkv], (dy) => {
    const target = engine.gradient(qkv)!;
    engine.pool.scratch(edgeTile + 4 * (2 * tokens * d + channels * T + 2 * channels * scoreRows + 2 * scoreRows * tokens));
    const args = [qkv.address, lse, out.address, dy, target.address, T, heads, d, target.accumulate];
    engine.pool.run('kAttentionBackward', N * heads, args, 2.5 * flops);
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

/** x [N,T,D] + gamma [D] * branch, or scale * gamma * branch [s,T,D] on the samples of a subset. */
export function addResidual(engine: Engine, x: CpuTensor, branch: CpuTensor, gamma: CpuTensor, subset?: BatchSubset): CpuTensor {
  const [N = 0, T = 0, n = 0] = x.shape;
  const samples = subset ? subset.rows.length : N;
  const fits = branch.shape.length === 3 && branch.shape[0] === samples && branch.shape[1] === T && branch.shape[2] === n;
  check(x.shape.length === 3 && fits && gamma.size === n, 'addResidual', x, branch, gamma);
  if (subset) checkRows('addResidual', subset.rows, N, true);
  const y = engine.make(x.shape);
  const index = subset ? engine.ints(subset.rows) : 0;
  const scale = subset ? subset.scale : 1;
  const rows = samples * T;
  const per = rowsPerChunk(n);
  const groups = Math.ceil(rows / per);
  if (subset && samples < N) {
    const named = new Set(subset.rows);
    const others = Int32Array.from({ length: N }, (_, i) => i).filter((i) => !named.has(i));
    // Samples without a branch keep x.
    copySamples(engine, y.address, x.address, others, T * n);
  }
  engine.pool.run('kResidual', groups, [y.address, x.address, branch.address, gamma.address, scale, index, T, n, rows, per]);
  engine.record(y, [x, branch, gamma], (dy) => {
    const dBranch = engine.gradient(branch);
    const dGamma = engine.gradient(gamma);
    withPartials(engine, groups, n, [dGamma], (partials) => {
      const args = [
        dy,
        branch.address,
        gamma.address,
        scale,
        index,
        T,
        n,
        rows,
        per,
        dBranch?.address ?? 0,
        dBranch?.accumulate ?? 0,
        partials,
      ];
      if (partials || dBranch) engine.pool.run('kResidualBackward', groups, args);
    });
    return engine.passOn(x, dy);
  });
  return y;
}

function copySamples(engine: Engine, to: number, from: number, rows: Int32Array, size: number): void {
  for (const row of rows) engine.copy(to + row * size * 4, from + row * size * 4, size);
}
