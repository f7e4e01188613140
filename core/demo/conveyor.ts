/**
 * Seeded pictures of mixed parts on a conveyor, with exact masks: the demo's images when no folder is given.
 * Parts are signed distance fields lit by one lamp; nothing here is photographed and nothing is read from disk.
 * Not a benchmark: what it shows is measured against its own exact masks only.
 */
import { Random } from '../random.ts';
import type { RgbImage } from '../images/index.ts';

/** Class numbers of the masks; 0 is the belt with everything that is not a part. */
export const CONVEYOR_CLASSES = ['belt', 'bolt', 'washer', 'gear', 'bracket', 'plug'] as const;

export interface ConveyorPicture {
  readonly image: RgbImage;
  /** [H,W] class of the topmost part at the pixel centre, 0 for none. */
  readonly classes: Uint8Array;
  /** [H,W] 1..n, one number per part that shows at least one pixel, 0 for none. */
  readonly instances: Uint16Array;
}

type Rgb = readonly [number, number, number];

/** Signed distance in part units (negative inside) at local (u, v). */
type Shape = (u: number, v: number) => number;

interface Part {
  readonly kind: number;
  readonly shape: Shape;
  readonly x: number;
  readonly y: number;
  readonly cos: number;
  readonly sin: number;
  /** Pixels per part unit. */
  readonly size: number;
  /** Reach of the shape in part units. */
  readonly reach: number;
  readonly colour: Rgb;
  /** 0 matt plastic .. 1 polished metal. */
  readonly metal: number;
  /** Share of the surface that is rusty or dirty. */
  readonly wear: number;
  readonly seed: number;
}

/** Smooth value noise in [0,1) on an integer lattice. */
function valueNoise(x: number, y: number, seed: number): number {
  const x0 = Math.floor(x);
  const y0 = Math.floor(y);
  const fx = x - x0;
  const fy = y - y0;
  const sx = fx * fx * (3 - 2 * fx);
  const sy = fy * fy * (3 - 2 * fy);
  const a = lattice(x0, y0, seed);
  const b = lattice(x0 + 1, y0, seed);
  const c = lattice(x0, y0 + 1, seed);
  const d = lattice(x0 + 1, y0 + 1, seed);
  return a + (b - a) * sx + (c - a) * sy + (a - b - c + d) * sx * sy;
}

function lattice(x: number, y: number, seed: number): number {
  let h = Math.imul(x, 0x27d4eb2d) ^ Math.imul(y, 0x165667b1) ^ Math.imul(seed, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) >>> 0) / 4294967296;
}

/** Three octaves of value noise, in [0,1). */
function cloud(x: number, y: number, seed: number): number {
  return (valueNoise(x, y, seed) * 4 + valueNoise(x * 2, y * 2, seed + 1) * 2 + valueNoise(x * 4, y * 4, seed + 2)) / 7;
}

function box(u: number, v: number, halfWidth: number, halfHeight: number, round: number): number {
  const dx = Math.abs(u) - halfWidth + round;
  const dy = Math.abs(v) - halfHeight + round;
  return Math.hypot(Math.max(dx, 0), Math.max(dy, 0)) + Math.min(Math.max(dx, dy), 0) - round;
}

function clamp01(value: number): number {
  return value < 0 ? 0 : value > 1 ? 1 : value;
}

/** Bolt from the side: head and threaded shaft. */
function bolt(rng: Random): Shape {
  const length = rng.uniform(0.9, 1.5);
  const pitch = rng.uniform(26, 38);
  const head = rng.uniform(0.42, 0.55);
  return (u, v) => {
    const thread = 0.03 * Math.sin(u * pitch);
    return Math.min(box(u + 0.7, v, 0.24, head, 0.06), box(u - length / 2 + 0.5, v, length / 2 + 0.05, 0.2 + thread, 0.03));
  };
}

function washer(rng: Random): Shape {
  const hole = rng.uniform(0.35, 0.6);
  return (u, v) => {
    const r = Math.hypot(u, v);
    return Math.max(r - 0.95, hole - r);
  };
}

function gear(rng: Random): Shape {
  const teeth = 9 + rng.int(8);
  const depth = rng.uniform(0.1, 0.17);
  const bore = rng.uniform(0.18, 0.3);
  const spokes = rng.chance(0.5) ? 4 + rng.int(2) : 0;
  return (u, v) => {
    const r = Math.hypot(u, v);
    const angle = Math.atan2(v, u);
    const tooth = Math.max(-1, Math.min(1, 2.2 * Math.cos(teeth * angle)));
    let d = Math.max(r - (0.86 + depth * 0.5 * tooth), bore - r);
    if (spokes > 0) {
      const slot = Math.max(Math.abs(r - 0.52) - 0.11, 0.35 - Math.cos(spokes * angle));
      d = Math.max(d, -slot * 0.6);
    }
    return d;
  };
}

function bracket(rng: Random): Shape {
  const arm = rng.uniform(0.7, 1);
  const width = rng.uniform(0.2, 0.28);
  const hole = width * rng.uniform(0.4, 0.55);
  return (u, v) => {
    const arms = Math.min(box(u, v + 0.6, arm, width, 0.05), box(u + arm - width, v - 0.1, width, 0.75, 0.05));
    const holes = Math.min(Math.hypot(u - arm * 0.6, v + 0.6), Math.hypot(u + arm - width, v - 0.5)) - hole;
    return Math.max(arms, -holes);
  };
}

/** Moulded plastic plug: a capsule with ribs. */
function plug(rng: Random): Shape {
  const length = rng.uniform(0.25, 0.6);
  const ribs = rng.uniform(12, 18);
  return (u, v) => {
    const along = Math.max(Math.abs(u) - length, 0);
    return Math.hypot(along, v) - 0.48 - 0.025 * Math.sin(u * ribs);
  };
}

const KINDS: readonly { readonly make: (rng: Random) => Shape; readonly reach: number }[] = [
  { make: bolt, reach: 1.55 },
  { make: washer, reach: 1.05 },
  { make: gear, reach: 1.1 },
  { make: bracket, reach: 1.4 },
  { make: plug, reach: 1.2 },
];

const METALS: readonly Rgb[] = [
  [0.62, 0.64, 0.67],
  [0.72, 0.62, 0.42],
  [0.36, 0.37, 0.4],
  [0.66, 0.47, 0.38],
];
const PLASTICS: readonly Rgb[] = [
  [0.75, 0.22, 0.18],
  [0.17, 0.36, 0.66],
  [0.83, 0.67, 0.2],
  [0.24, 0.52, 0.33],
  [0.8, 0.8, 0.77],
];

function makePart(rng: Random, width: number, height: number, seed: number): Part {
  const kind = rng.int(KINDS.length);
  const { make, reach } = KINDS[kind]!;
  const plastic = kind === 4 || (kind === 3 && rng.chance(0.25));
  const palette = plastic ? PLASTICS : METALS;
  const base = palette[rng.int(palette.length)]!;
  const angle = rng.uniform(0, 2 * Math.PI);
  return {
    kind: kind + 1,
    shape: make(rng),
    x: rng.uniform(-0.03, 1.03) * width,
    y: rng.uniform(-0.03, 1.03) * height,
    cos: Math.cos(angle),
    sin: Math.sin(angle),
    size: Math.min(width, height) * Math.exp(rng.uniform(Math.log(0.055), Math.log(0.19))),
    reach,
    colour: tinted(rng, base),
    metal: plastic ? rng.uniform(0, 0.2) : rng.uniform(0.5, 1),
    wear: rng.chance(0.4) ? rng.uniform(0.05, 0.4) : 0,
    seed,
  };
}

function tinted(rng: Random, base: Rgb): Rgb {
  const bright = rng.uniform(0.8, 1.15);
  return [base[0] * bright * rng.uniform(0.97, 1.03), base[1] * bright, base[2] * bright * rng.uniform(0.97, 1.03)];
}

/** Signed distance in pixels of a part at picture coordinates. */
function partDistance(part: Part, x: number, y: number): number {
  const dx = (x - part.x) / part.size;
  const dy = (y - part.y) / part.size;
  if (dx * dx + dy * dy > part.reach * part.reach * 1.7) return (Math.hypot(dx, dy) - part.reach) * part.size;
  return part.shape(dx * part.cos + dy * part.sin, dy * part.cos - dx * part.sin) * part.size;
}

/**
 * Draws picture number `index` of the series `seed`. The same arguments give the same bytes.
 * @param width pixels, at least 64
 * @param height pixels, at least 64
 */
export function drawConveyor(seed: number, index: number, width = 320, height = 240): ConveyorPicture {
  const rng = new Random(seed, index);
  const count = 3 + rng.int(9);
  const parts: Part[] = [];
  for (let i = 0; i < count; i++) parts.push(makePart(rng, width, height, index * 64 + i));

  // One lamp per picture: direction of the light, fall-off across the belt, colour and strength.
  const lampAngle = rng.uniform(0, 2 * Math.PI);
  const lampX = Math.cos(lampAngle);
  const lampY = Math.sin(lampAngle);
  const fallOff = rng.uniform(0.1, 0.55);
  const warmth = rng.uniform(-0.07, 0.09);
  const exposure = rng.uniform(0.75, 1.2);
  const shadowReach = rng.uniform(2, 7);
  const shadowDepth = rng.uniform(0.35, 0.6);

  const beltShade = rng.uniform(0.16, 0.34);
  const beltTint: Rgb = [beltShade * rng.uniform(0.9, 1.1), beltShade, beltShade * rng.uniform(0.92, 1.18)];
  const weave = rng.uniform(0.9, 1.7);
  const seamX = rng.chance(0.3) ? rng.uniform(0, width) : -1e9;
  const specks = Array.from({ length: rng.int(26) }, () => ({
    x: rng.uniform(0, width),
    y: rng.uniform(0, height),
    r: rng.uniform(0.6, 2.4),
    shade: rng.uniform(-0.14, 0.22),
  }));

  // Clutter that is no part: curled metal shavings on the belt.
  const shavings = Array.from({ length: rng.int(5) }, () => ({
    x: rng.uniform(0, width),
    y: rng.uniform(0, height),
    r: rng.uniform(4, 13),
    from: rng.uniform(-Math.PI, Math.PI),
    sweep: rng.uniform(0.8, 2.6),
    shade: rng.uniform(0.35, 0.75),
  }));

  const pixels = width * height;
  const colour = new Float32Array(pixels * 3);
  const classes = new Uint8Array(pixels);
  const owner = new Int16Array(pixels).fill(-1);

  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      // Belt: woven rubber, stains, a seam.
      const woven = 0.018 * Math.sin(x * weave) * Math.sin(y * weave);
      const stain = 0.11 * (cloud(x / 47, y / 47, seed * 7 + index) - 0.5) + 0.05 * (valueNoise(x / 3, y / 3, index + 17) - 0.5);
      const seam = Math.abs(x - seamX - 3 * Math.sin(y / 19)) < 1.6 ? -0.07 : 0;
      let r = beltTint[0] + woven + stain + seam;
      let g = beltTint[1] + woven + stain + seam;
      let b = beltTint[2] + woven + stain + seam;

      for (const shaving of shavings) {
        const dx = x - shaving.x;
        const dy = y - shaving.y;
        const ring = Math.abs(Math.hypot(dx, dy) - shaving.r);
        if (ring > 1.6) continue;
        const turn = Math.atan2(dy, dx) - shaving.from;
        if (Math.abs(turn - 2 * Math.PI * Math.round(turn / (2 * Math.PI))) > shaving.sweep) continue;
        const cover = clamp01(1.3 - ring) * 0.8;
        r += (shaving.shade - r) * cover;
        g += (shaving.shade - g) * cover;
        b += (shaving.shade - b) * cover;
      }

      for (let p = 0; p < count; p++) {
        const part = parts[p]!;
        const bound = part.reach * part.size + shadowReach * 2;
        if (Math.abs(x - part.x) > bound || Math.abs(y - part.y) > bound) continue;
        // Shadow on what lies below, then the part itself over it.
        const away = partDistance(part, x + lampX * shadowReach, y + lampY * shadowReach);
        const shadow = 1 - shadowDepth * clamp01(0.5 - away / (shadowReach * 0.9));
        r *= shadow;
        g *= shadow;
        b *= shadow;
        const d = partDistance(part, x, y);
        if (d > 0.8) continue;
        const surface = partColour(part, x, y, d, lampX, lampY);
        const cover = clamp01(0.5 - d);
        r += (surface[0] - r) * cover;
        g += (surface[1] - g) * cover;
        b += (surface[2] - b) * cover;
        if (d < 0) {
          classes[i] = part.kind;
          owner[i] = p;
        }
      }
      // Lamp fall-off over the whole picture.
      const along = ((x / width - 0.5) * lampX + (y / height - 0.5) * lampY) * 2;
      const light = exposure * (1 - fallOff * along);
      colour[i * 3] = r * light * (1 + warmth);
      colour[i * 3 + 1] = g * light;
      colour[i * 3 + 2] = b * light * (1 - warmth);
    }
  }

  for (const speck of specks) {
    const reach = Math.ceil(speck.r + 1);
    for (let y = Math.max(0, Math.floor(speck.y) - reach); y < Math.min(height, speck.y + reach); y++) {
      for (let x = Math.max(0, Math.floor(speck.x) - reach); x < Math.min(width, speck.x + reach); x++) {
        const cover = clamp01(speck.r - Math.hypot(x - speck.x, y - speck.y)) * speck.shade;
        for (let c = 0; c < 3; c++) colour[(y * width + x) * 3 + c]! += cover;
      }
    }
  }

  blurInPlace(colour, width, height, rng.uniform(0.3, 1.1));

  // Shot noise grows with the root of the signal, read noise does not.
  const shot = rng.uniform(0.004, 0.03);
  const data = new Uint8Array(pixels * 3);
  for (let i = 0; i < data.length; i++) {
    const value = Math.max(0, colour[i]!);
    data[i] = Math.round(255 * clamp01(value + rng.normal() * (shot * Math.sqrt(value) + 0.004)));
  }

  // Number only the parts that still show.
  const numbers = new Map<number, number>();
  const instances = new Uint16Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const p = owner[i]!;
    if (p < 0) continue;
    let number = numbers.get(p);
    if (number === undefined) {
      number = numbers.size + 1;
      numbers.set(p, number);
    }
    instances[i] = number;
  }
  return { image: { width, height, data }, classes, instances };
}

/** Lit surface colour of a part at a pixel; `d` is its signed distance there in pixels. */
function partColour(part: Part, x: number, y: number, d: number, lampX: number, lampY: number): Rgb {
  // A bevel a few pixels wide: the distance's slope is the way the edge faces.
  const nx = partDistance(part, x + 1, y) - d;
  const ny = partDistance(part, x, y + 1) - d;
  const bevel = clamp01(1 + d / (1 + part.size * 0.12));
  const facing = -(nx * lampX + ny * lampY) * bevel;

  const u = ((x - part.x) * part.cos + (y - part.y) * part.sin) / part.size;
  const v = ((y - part.y) * part.cos - (x - part.x) * part.sin) / part.size;
  // Metal is brushed along u; plastic has fine grain.
  const grain =
    part.metal > 0.3 ? 0.16 * (valueNoise(u * 3, v * 34, part.seed) - 0.5) : 0.06 * (valueNoise(u * 22, v * 22, part.seed) - 0.5);
  const gloss = part.metal * 0.35 * Math.max(0, facing) ** 3 + part.metal * 0.12 * (cloud(u * 2 + 5, v * 2, part.seed + 9) - 0.5);
  const shade = (0.82 + 0.42 * facing + grain) * (1 - 0.25 * part.metal) + gloss;
  const rusty = part.wear > 0 && cloud(u * 4, v * 4, part.seed + 31) < part.wear ? 0.75 : 0;
  return [
    (part.colour[0] * (1 - rusty) + 0.36 * rusty) * shade + gloss,
    (part.colour[1] * (1 - rusty) + 0.2 * rusty) * shade + gloss,
    (part.colour[2] * (1 - rusty) + 0.11 * rusty) * shade + gloss,
  ];
}

/** Gaussian blur of [H,W,3] floats; sigma in pixels. */
function blurInPlace(data: Float32Array, width: number, height: number, sigma: number): void {
  const radius = Math.ceil(2.5 * sigma);
  const kernel = new Float32Array(2 * radius + 1);
  let sum = 0;
  for (let k = -radius; k <= radius; k++) sum += kernel[k + radius] = Math.exp((-k * k) / (2 * sigma * sigma));
  for (let k = 0; k < kernel.length; k++) kernel[k]! /= sum;
  const row = new Float32Array(Math.max(width, height) * 3);
  const pass = (lines: number, length: number, lineStep: number, step: number) => {
    for (let line = 0; line < lines; line++) {
      const start = line * lineStep;
      for (let i = 0; i < length; i++) {
        for (let c = 0; c < 3; c++) {
          let value = 0;
          for (let k = -radius; k <= radius; k++) {
            const j = Math.min(length - 1, Math.max(0, i + k));
            value += kernel[k + radius]! * data[start + j * step + c]!;
          }
          row[i * 3 + c] = value;
        }
      }
      for (let i = 0; i < length; i++) for (let c = 0; c < 3; c++) data[start + i * step + c] = row[i * 3 + c]!;
    }
  };
  pass(height, width, width * 3, 3);
  pass(width, height, 3, width * 3);
}
