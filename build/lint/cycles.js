/**
 * ESLint rule `patchwise/no-cycle`: no file imports itself through others. Types do not count: they are gone at run time.
 * Neither does import(): it waits until everything is loaded.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';

/**
 * What each file imports, as absolute paths, with the time it was read: editors keep this process for hours.
 * @type {Map<string, { modified: number, imports: string[] }>}
 */
const known = new Map();

/** @param {string} file @returns {string[]} absolute paths of the project files that it imports when it is loaded */
function importsOf(file) {
  if (!existsSync(file)) return [];
  const modified = statSync(file).mtimeMs;
  const before = known.get(file);
  if (before?.modified === modified) return before.imports;
  const imports = specifiers(file).flatMap((name) => (name.startsWith('.') ? [path.resolve(path.dirname(file), name)] : []));
  known.set(file, { modified, imports });
  return imports;
}

/** @param {string} file @returns {string[]} */
function specifiers(file) {
  const text = readFileSync(file, 'utf8');
  const code = file.endsWith('.svelte')
    ? [...text.matchAll(/<script[^>]*>([\s\S]*?)<\/script>/g)].map(([, script]) => script).join('\n')
    : text;
  const { statements } = ts.createSourceFile(file, code, ts.ScriptTarget.ESNext);
  return statements
    .flatMap((statement) => {
      if (ts.isImportDeclaration(statement) && !statement.importClause?.isTypeOnly) return [statement.moduleSpecifier];
      if (ts.isExportDeclaration(statement) && !statement.isTypeOnly && statement.moduleSpecifier) return [statement.moduleSpecifier];
      return [];
    })
    .flatMap((specifier) => (ts.isStringLiteral(specifier) ? [specifier.text] : []));
}

/**
 * The way from `start` back to `goal`, both included; null when there is none.
 * @param {string} start @param {string} goal
 */
function wayTo(start, goal) {
  /** @type {Map<string, string | null>} */
  const cameFrom = new Map([[start, null]]);
  const queue = [start];
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
    if (file === goal) {
      const way = [];
      for (let step = /** @type {string | null} */ (file); step !== null; step = cameFrom.get(step) ?? null) way.unshift(step);
      return way;
    }
    for (const next of importsOf(file)) {
      if (cameFrom.has(next)) continue;
      cameFrom.set(next, file);
      queue.push(next);
    }
  }
  return null;
}

/** @type {import('eslint').Rule.RuleModule} */
export const noCycle = {
  meta: {
    type: 'problem',
    docs: { description: 'No file imports itself through others' },
    schema: [],
    messages: { cycle: 'Import cycle: {{way}}.' },
  },
  create(context) {
    const here = context.filename;
    /** @param {{ source?: unknown, importKind?: string, exportKind?: string }} node */
    const check = (node) => {
      const source = /** @type {import('estree').Literal | null | undefined} */ (node.source);
      if (typeof source?.value !== 'string' || !source.value.startsWith('.') || node.importKind === 'type' || node.exportKind === 'type')
        return;
      const way = wayTo(path.resolve(path.dirname(here), source.value), here);
      if (way)
        context.report({ node: source, messageId: 'cycle', data: { way: [here, ...way].map((file) => path.basename(file)).join(' → ') } });
    };
    return { ImportDeclaration: check, ExportNamedDeclaration: check, ExportAllDeclaration: check };
  },
};
