/** Pictures and masks for the fake host: seeded scenes of parts on a conveyor, drawn as SVG by sharp. Made up, for looking at. */
import sharp from 'sharp';
import type { Box, Rle } from '../../core/contract/index.ts';
import { encodeRle } from '../../renderer/src/logic/rle.ts';

export const kinds = ['washer', 'nut', 'bolt', 'gear', 'chip'] as const;
/** Different scenes; image ids take turns through them. */
export const variants = 24;
export const sceneWidth = 1600;
export const sceneHeight = 1200;

export interface Part {
  readonly kind: number;
  readonly box: Box;
  readonly area: number;
  readonly rle: Rle;
}

export function random(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Placed {
  readonly kind: number;
  readonly x: number;
  readonly y: number;
  readonly r: number;
  readonly turn: number;
  readonly tone: number;
}

function ngon(n: number, r: number, phase = 0): string {
  return (
    Array.from(
      { length: n },
      (_, i) => `${i ? 'L' : 'M'}${r * Math.cos(phase + (i * 2 * Math.PI) / n)} ${r * Math.sin(phase + (i * 2 * Math.PI) / n)}`,
    ).join('') + 'Z'
  );
}

function circle(r: number): string {
  return `M${r} 0A${r} ${r} 0 1 0 ${-r} 0A${r} ${r} 0 1 0 ${r} 0Z`;
}

/** Outline of a part around the origin, even-odd. */
function shape(kind: number, r: number): string {
  if (kind === 0) return circle(r) + circle(r * 0.5);
  if (kind === 1) return ngon(6, r) + circle(r * 0.48);
  if (kind === 2) {
    const w = r * 0.26;
    return `M${-r * 1.25} ${-w}H${r * 0.7}V${-w * 2}H${r * 1.25}V${w * 2}H${r * 0.7}V${w}H${-r * 1.25}Z`;
  }
  if (kind === 3) {
    const teeth = 14;
    const points = Array.from({ length: teeth * 4 }, (_, i) => {
      const radius = i % 4 < 2 ? r : r * 0.82;
      const angle = ((i + 0.5) / (teeth * 4)) * 2 * Math.PI;
      return `${i ? 'L' : 'M'}${radius * Math.cos(angle)} ${radius * Math.sin(angle)}`;
    });
    return `${points.join('')}Z${circle(r * 0.3)}`;
  }
  return `M${-r} ${r * 0.1}Q${-r * 0.4} ${-r * 0.9} ${r * 0.5} ${-r * 0.5}T${r} ${r * 0.3}Q${r * 0.1} ${r * 0.9} ${-r} ${r * 0.1}Z`;
}

function place(variant: number): Placed[] {
  const next = random(variant + 101);
  const parts: Placed[] = [];
  const wanted = 7 + Math.floor(next() * 9);
  for (let tries = 0; parts.length < wanted && tries < 400; tries++) {
    const kind = Math.floor(next() * kinds.length);
    const r = 48 + next() * 80 + (kind === 3 ? 40 : 0);
    const candidate = {
      kind,
      r,
      x: r + next() * (sceneWidth - 2 * r),
      y: 110 + r + next() * (sceneHeight - 220 - 2 * r),
      turn: next() * 360,
      tone: next(),
    };
    if (parts.every((p) => Math.hypot(p.x - candidate.x, p.y - candidate.y) > (p.r + r) * 1.05)) parts.push(candidate);
  }
  return parts;
}

const tones = ['#a9afb5', '#8f8579', '#b39a6b', '#7d8791', '#6d7f5c'];

/** A scene as JPEG; `scale` below 1 draws it smaller, which is quicker. */
export async function scenePicture(variant: number, scale = 1): Promise<Buffer> {
  const next = random(variant + 7);
  const light = 0.2 + next() * 0.6;
  const ribs = Array.from(
    { length: 27 },
    (_, i) => `<rect x="${i * 62}" y="90" width="3" height="1020" fill="#20252a" opacity=".5"/>`,
  ).join('');
  const parts = place(variant)
    .map((p) => {
      const d = shape(p.kind, p.r);
      const at = `transform="translate(${p.x} ${p.y}) rotate(${p.turn})"`;
      return `<path d="${d}" transform="translate(${p.x + 12} ${p.y + 16}) rotate(${p.turn})" fill="#000" opacity=".38" fill-rule="evenodd"/>
<path d="${d}" ${at} fill="${tones[p.kind]}" fill-rule="evenodd"/>
<path d="${d}" ${at} fill="url(#m)" opacity="${0.35 + p.tone * 0.4}" fill-rule="evenodd" stroke="#fff" stroke-opacity=".25" stroke-width="3"/>`;
    })
    .join('');
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${sceneWidth * scale}" height="${sceneHeight * scale}" viewBox="0 0 ${sceneWidth} ${sceneHeight}">
<defs><linearGradient id="b" x2="1"><stop stop-color="#454c54"/><stop offset="${light}" stop-color="#626b75"/><stop offset="1" stop-color="#33393f"/></linearGradient>
<linearGradient id="m" x2="1" y2="1"><stop stop-color="#fff"/><stop offset=".5" stop-color="#777"/><stop offset="1" stop-color="#111"/></linearGradient></defs>
<rect width="100%" height="100%" fill="#23272c"/><rect y="90" width="100%" height="1020" fill="url(#b)"/>${ribs}
<rect y="84" width="100%" height="9" fill="#b9912f"/><rect y="1107" width="100%" height="9" fill="#b9912f"/>${parts}</svg>`;
  const noise = await sharp({
    create: { width: 400, height: 300, channels: 3, background: '#808080', noise: { type: 'gaussian', mean: 128, sigma: 26 } },
  })
    .png()
    .toBuffer();
  return sharp(Buffer.from(svg))
    .blur(0.8)
    .composite([{ input: noise, tile: true, blend: 'soft-light' }])
    .jpeg({ quality: 86 })
    .toBuffer();
}

async function rasterize(part: Placed, grow: number): Promise<{ rle: Rle; box: Box; area: number }> {
  const reach = Math.ceil(part.r * 1.5);
  const x = Math.max(0, Math.floor(part.x - reach));
  const y = Math.max(0, Math.floor(part.y - reach));
  const width = Math.min(sceneWidth, Math.ceil(part.x + reach)) - x;
  const height = Math.min(sceneHeight, Math.ceil(part.y + reach)) - y;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="100%" height="100%"/><path d="${shape(part.kind, part.r)}" transform="translate(${part.x - x} ${part.y - y}) rotate(${part.turn}) scale(${grow})" fill="#fff" fill-rule="evenodd"/></svg>`;
  const { data, info } = await sharp(Buffer.from(svg)).removeAlpha().extractChannel(0).raw().toBuffer({ resolveWithObject: true });
  const mask = new Uint8Array(data.length);
  let area = 0;
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let i = 0; i < mask.length; i++) {
    if (data[i]! <= 127) continue;
    mask[i] = 1;
    area++;
    const column = i % info.width;
    const row = Math.floor(i / info.width);
    left = Math.min(left, column);
    right = Math.max(right, column + 1);
    top = Math.min(top, row);
    bottom = Math.max(bottom, row + 1);
  }
  return {
    rle: encodeRle({ x, y, width, height, data: mask }, sceneWidth, sceneHeight),
    box: [x + left, y + top, right - left, bottom - top],
    area,
  };
}

const scenes = new Map<number, Promise<Part[]>>();

/** The proposals of a scene: its parts, each a little too large or too small. */
export function sceneParts(variant: number): Promise<Part[]> {
  let found = scenes.get(variant);
  if (!found) {
    const next = random(variant + 900);
    found = Promise.all(place(variant).map(async (part) => ({ kind: part.kind, ...(await rasterize(part, 0.94 + next() * 0.12)) })));
    scenes.set(variant, found);
  }
  return found;
}

/** Colours of patch features that get clearer with `share` (0 untrained, 1 trained), one pixel a patch. */
export async function pcaPicture(variant: number, share: number): Promise<Buffer> {
  const [w, h] = [37, 28];
  const next = random(variant * 31 + Math.round(share * 1000));
  const palette = [
    [236, 120, 92],
    [92, 190, 170],
    [240, 200, 90],
    [120, 130, 240],
    [150, 210, 110],
  ];
  const parts = place(variant);
  const data = Buffer.alloc(w * h * 3);
  for (let row = 0; row < h; row++) {
    for (let column = 0; column < w; column++) {
      const x = ((column + 0.5) / w) * sceneWidth;
      const y = ((row + 0.5) / h) * sceneHeight;
      const near = parts.find((p) => Math.hypot(p.x - x, p.y - y) < p.r * 1.05);
      const base = near ? palette[near.kind]! : y < 95 || y > 1105 ? [60, 40, 90] : [70, 70 + y / 40, 110];
      for (let c = 0; c < 3; c++)
        data[(row * w + column) * 3 + c] = Math.max(
          0,
          Math.min(255, 128 + (base[c]! - 128) * (0.15 + 0.85 * share) + (next() - 0.5) * 190 * (1 - share * 0.85)),
        );
    }
  }
  return sharp(data, { raw: { width: w, height: h, channels: 3 } })
    .png()
    .toBuffer();
}
