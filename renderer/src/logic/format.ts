/** Numbers, dates and networks as words for people. */
import type { NetworkFacts } from '../../../core/contract/index.ts';

const count = new Intl.NumberFormat('en');

/** 12,345 */
export function whole(value: number): string {
  return count.format(Math.round(value));
}

/** "1 image", "2,300 images" */
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${whole(value)} ${value === 1 ? one : many}`;
}

/** Of images whose files a scan no longer met. */
export function goneWords(count: number): string {
  return `${plural(count, 'image is', 'images are')} no longer in the folder; what was decided on ${count === 1 ? 'it' : 'them'} is kept.`;
}

/** 1.2 kB, 34 MB: decimal, as file managers show them. */
export function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let size = value;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit++;
  }
  return `${unit > 0 && size < 9.95 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** "40 s", "3 min", "2 h 10 min" */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  if (minutes >= 600) return `${whole(minutes / 60)} h`;
  const hours = Math.floor(minutes / 60);
  const rest = minutes % 60;
  return rest === 0 ? `${hours} h` : `${hours} h ${rest} min`;
}

/** A time known to half and double: "1 to 3 min", "2 to 6 h". */
export function roughly(seconds: number): string {
  if (seconds < 60) return 'a minute or two';
  const [unit, name] = seconds < 90 * 60 ? [60, 'min'] : [3600, 'h'];
  const [least, most] = [(0.7 * seconds) / unit, (2 * seconds) / unit].map((value) => Math.max(1, Math.round(value)));
  return `${whole(least!)} to ${whole(most!)} ${name}`;
}

/** Three significant digits, exponents below a thousandth: 0.0042, 1.3e-5. */
export function figure(value: number): string {
  if (Number.isNaN(value)) return '–'; // there is none
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(1);
  if (size >= 1000) return whole(value);
  return Number(value.toPrecision(3)).toString();
}

/** Images per second: one decimal below ten. */
export function rate(value: number): string {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} images/s`;
}

/** "Today 14:05", "12 Mar 2026" */
export function moment(iso: string, now = new Date()): string {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return iso;
  const time = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' }).format(date);
  if (date.toDateString() === now.toDateString()) return `Today ${time}`;
  const yesterday = new Date(now);
  yesterday.setDate(now.getDate() - 1);
  if (date.toDateString() === yesterday.toDateString()) return `Yesterday ${time}`;
  return new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' }).format(date);
}

/** File name of a path with forward slashes. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** "ViT small, 4 registers": what a network is called. */
export function networkName({ name, embedDim, depth, registers }: NetworkFacts): string {
  const size = name === 'custom' ? `${embedDim} wide, ${depth} blocks` : name;
  return `ViT ${size}${registers > 0 ? `, ${plural(registers, 'register')}` : ''}`;
}
