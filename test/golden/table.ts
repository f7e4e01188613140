/** A folder's report as lines of text. */
import { isOut, type Row } from './rows.ts';
import type { FolderReport } from './folder.ts';

/** Comparisons of many (parameters, crops) fill one line with the worst of them; those out of tolerance one each. */
function linesOf(rows: readonly Row[]): string[][] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = `${row.file} ${row.what}`;
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  const cells = ({ file, what, error, tolerance }: Row, which: string, ok: boolean): string[] => [
    file,
    which ? `${what}, ${which}` : what,
    number(error),
    number(tolerance),
    ok ? 'ok' : 'OUT',
  ];
  return [...groups.values()].flatMap((group) => {
    const out = group.filter(isOut).map((row) => cells(row, row.which ?? '', false));
    const good = group.filter((row) => !isOut(row));
    const worst = good.reduce<Row | null>((most, row) => (most && most.error >= row.error ? most : row), null);
    const which = worst?.which && good.length > 1 ? `worst of ${good.length}: ${worst.which}` : (worst?.which ?? '');
    return worst ? [...out, cells(worst, which, true)] : out;
  });
}

const number = (value: number): string => (value === 0 ? '0' : value.toExponential(1));

/** The table, then what could not be checked, then one line that says it all. */
export function textOf({ rows, problems }: FolderReport): string {
  const table = [['file', 'what', 'error', 'tolerance', ''], ...linesOf(rows)];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((cells) => cells[column]!.length)));
  const lines = table.map((cells) =>
    cells
      .map((cell, column) => (column === 2 || column === 3 ? cell.padStart(widths[column]!) : cell.padEnd(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
  for (const { file, text } of problems) lines.push(`${file}: FAILED: ${text}`);
  const out = rows.filter(isOut).length;
  lines.push('', `${rows.length} comparisons, ${out} out of tolerance; ${problems.length} files failed`);
  return lines.join('\n');
}
