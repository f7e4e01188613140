/** The folder to look at when a run is over: one page with pictures, curve and table. Draws and writes; measures nothing. */
import { mkdir, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { TrainMetrics } from '../contract/index.ts';
import type { ProposalScore } from '../evaluate/index.ts';
import type { RgbImage } from '../images/index.ts';
import type { Mask } from '../labels/index.ts';

export interface ScoreRow {
  readonly method: string;
  readonly score: ProposalScore;
}

export interface ScoreSection {
  readonly caption: string;
  readonly rows: readonly ScoreRow[];
}

export interface ReportSection {
  readonly title: string;
  readonly text: string;
  /** File names inside the report folder, with captions. */
  readonly pictures: readonly { readonly file: string; readonly caption: string }[];
}

export interface Report {
  readonly title: string;
  readonly summary: string;
  /** null without masks: then nothing can be measured, and the page says so. */
  readonly scores: ScoreSection | null;
  /** Before and after a review, on images that were not reviewed. */
  readonly reviewScores: ScoreSection | null;
  readonly metrics: readonly TrainMetrics[];
  readonly sections: readonly ReportSection[];
  readonly notes: readonly string[];
  readonly openCommand: string;
}

/** Well separated hues for masks whose class is not known: golden-angle steps. */
export function maskColour(index: number): readonly [number, number, number] {
  const hue = (index * 137.508) % 360;
  const channel = (shift: number) => {
    const k = (shift + hue / 30) % 12;
    return Math.round(255 * (0.58 - 0.38 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

/** The image with each mask as a translucent fill and a solid one-pixel outline. Masks have the image's size. */
export function drawOverlay(
  image: RgbImage,
  masks: readonly { readonly mask: Mask; readonly colour: readonly [number, number, number] }[],
): RgbImage {
  const { width, height } = image;
  const data = Uint8Array.from(image.data);
  for (const { mask, colour } of masks) {
    if (mask.width !== width || mask.height !== height) {
      throw new Error(`drawOverlay: mask is ${mask.width}x${mask.height}, image ${width}x${height}`);
    }
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const i = y * width + x;
        if (!mask.data[i]) continue;
        const inner =
          x > 0 &&
          y > 0 &&
          x < width - 1 &&
          y < height - 1 &&
          mask.data[i - 1] &&
          mask.data[i + 1] &&
          mask.data[i - width] &&
          mask.data[i + width];
        const weight = inner ? 0.32 : 0.95;
        for (let c = 0; c < 3; c++) data[i * 3 + c] = data[i * 3 + c]! * (1 - weight) + colour[c]! * weight;
      }
    }
  }
  return { width, height, data };
}

/** Loss terms over steps as an SVG of 720 x 260; an exponential mean smooths the noise of small batches. */
export function lossCurve(metrics: readonly TrainMetrics[]): string {
  const series = [
    { label: 'DINO', colour: '#4f8cff', value: (m: TrainMetrics) => m.dinoGlobal + m.dinoLocal },
    { label: 'iBOT', colour: '#e0893b', value: (m: TrainMetrics) => m.ibot },
  ];
  const width = 720;
  const height = 260;
  const left = 46;
  const bottom = 30;
  const steps = metrics.map((m) => m.step);
  const smooth = series.map(({ value }) => {
    let mean = metrics.length ? value(metrics[0]!) : 0;
    return metrics.map((m) => (mean += 0.15 * (value(m) - mean)));
  });
  const top = Math.max(1e-6, ...smooth.flat()) * 1.05;
  const low = Math.min(0, ...smooth.flat());
  const lastStep = Math.max(1, steps.at(-1) ?? 1);
  const px = (step: number) => left + ((width - left - 10) * step) / lastStep;
  const py = (value: number) => 10 + (height - bottom - 10) * (1 - (value - low) / (top - low));
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((t) => low + (top - low) * t);
  const grid = ticks
    .map(
      (t) =>
        `<line x1="${left}" x2="${width - 10}" y1="${py(t)}" y2="${py(t)}" class="grid"/><text x="${left - 6}" y="${py(t) + 4}" text-anchor="end">${t.toFixed(2)}</text>`,
    )
    .join('');
  const lines = series
    .map(
      ({ colour }, k) =>
        `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${steps.map((s, i) => `${px(s).toFixed(1)},${py(smooth[k]![i]!).toFixed(1)}`).join(' ')}"/>`,
    )
    .join('');
  const legend = series
    .map(({ label, colour }, k) => `<text x="${width - 20}" y="${26 + 18 * k}" text-anchor="end" style="fill:${colour}">${label}</text>`)
    .join('');
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Loss terms over training steps">${grid}${lines}${legend}<text x="${(width + left) / 2}" y="${height - 6}" text-anchor="middle">step (of ${lastStep})</text></svg>`;
}

const STYLE = `
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6672; --paper: #fbfbfa; --line: #dfe3e6; --accent: #2463c9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b0; --paper: #15181c; --line: #2b3138; --accent: #7fb0ff; } }
body { margin: 0 auto; max-width: 1120px; padding: 40px 24px 80px; font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 26px; margin: 0 0 6px; } h2 { font-size: 18px; margin: 40px 0 6px; } p { margin: 6px 0 14px; } .soft, figcaption { color: var(--soft); }
table { border-collapse: collapse; margin: 12px 0; } th, td { padding: 7px 18px 7px 0; text-align: right; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } .best td { font-weight: 650; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; } figure { margin: 0; } img { width: 100%; display: block; border-radius: 6px; image-rendering: auto; }
figcaption { font-size: 13px; margin-top: 4px; } svg { max-width: 760px; width: 100%; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } .grid { stroke: var(--line); }
code { background: color-mix(in srgb, var(--line) 60%, transparent); padding: 2px 6px; border-radius: 4px; }
`;

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);
}

function percent(value: number): string {
  return (100 * value).toFixed(1);
}

function scoresHtml({ caption, rows }: ScoreSection): string {
  const best = Math.max(...rows.map((r) => r.score.bestOverlap));
  const cells = rows.map(
    ({ method, score }) =>
      `<tr${score.bestOverlap === best ? ' class="best"' : ''}><td>${escapeHtml(method)}</td><td>${percent(score.bestOverlap)}</td>` +
      `<td>${percent(score.recall50)}</td><td>${score.proposalsPerImage.toFixed(1)}</td></tr>`,
  );
  const head = '<tr><th>method</th><th>best overlap, %</th><th>recall at IoU 0.5, %</th><th>proposals an image</th></tr>';
  return `<p class="soft">${escapeHtml(caption)}</p><table>${head}${cells.join('')}</table>`;
}

/** Writes index.html into `folder` (temporary name, then rename). Pictures are expected to be there already. */
export async function writeReport(folder: string, report: Report): Promise<string> {
  await mkdir(folder, { recursive: true });
  const scores = report.scores
    ? scoresHtml(report.scores)
    : '<p>No masks were given, so overlap could not be measured. Look at the pictures below, or review the proposals in the app.</p>';
  const sections = report.sections
    .map(
      (s) =>
        `<h2>${escapeHtml(s.title)}</h2><p class="soft">${escapeHtml(s.text)}</p><div class="pictures">${s.pictures
          .map(
            (p) =>
              `<figure><img src="${encodeURI(p.file)}" alt="${escapeHtml(p.caption)}"><figcaption>${escapeHtml(p.caption)}</figcaption></figure>`,
          )
          .join('')}</div>`,
    )
    .join('');
  const html = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escapeHtml(report.title)}</title><style>${STYLE}</style>
<h1>${escapeHtml(report.title)}</h1><p>${escapeHtml(report.summary)}</p><p>Open this project in the app: <code>${escapeHtml(report.openCommand)}</code></p>
<h2>Proposals, measured</h2>${scores}${report.reviewScores ? `<h2>What the review bought</h2>${scoresHtml(report.reviewScores)}` : ''}
<h2>Training</h2>${report.metrics.length > 1 ? lossCurve(report.metrics) : '<p>No metrics were recorded.</p>'}${sections}
<h2>How to read this</h2><ul>${report.notes.map((n) => `<li>${escapeHtml(n)}</li>`).join('')}</ul></html>`;
  const file = path.join(folder, 'index.html');
  await writeFile(`${file}.tmp`, html);
  await rename(`${file}.tmp`, file);
  return file;
}
