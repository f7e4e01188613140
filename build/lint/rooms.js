/**
 * ESLint rule `patchwise/rooms`: which folder may import what (the layers), and that a folder with an index.ts is
 * entered through it. Import cycles: cycles.js.
 */
import { existsSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const projectRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/** Rooms that know no database and no server: images in, events out. */
const pureRooms = ['dinov2', 'monitor', 'curate', 'prelabel', 'images', 'labels', 'evaluate', 'nn'].map((room) => `core/${room}`);

/**
 * First matching entries apply, all of them. `forbids` and `only` name project paths (a folder means all inside it) and
 * packages; `only` is about project paths.
 * @type {readonly { from: readonly string[], forbids?: readonly string[], only?: readonly string[], because: string }[]}
 */
export const layers = [
  { from: ['core'], forbids: ['electron', 'renderer', 'build'], because: 'core runs without a window' },
  { from: ['core/contract'], only: ['core/contract'], because: 'the contract is what both sides can load' },
  {
    from: ['renderer/src'],
    only: ['renderer/src', 'core/contract'],
    forbids: ['electron', 'node:*'],
    because: 'the page knows core by its contract only',
  },
  { from: ['electron'], only: ['electron', 'core/contract'], forbids: ['vite', 'svelte'], because: 'the shell is thin' },
  {
    from: pureRooms,
    forbids: [
      'core/host',
      'core/worker',
      'core/demo',
      'core/cli.ts',
      'node:sqlite',
      'node:http',
      'node:https',
      'node:http2',
      'node:net',
      '@trpc/server',
    ],
    because: 'this room knows no database and no server',
  },
];

/** @param {string} file @param {string} place a folder or a file, both relative to the root with forward slashes */
const isIn = (file, place) => file === place || file.startsWith(`${place}/`);

/** @type {import('eslint').Rule.RuleModule} */
export const rooms = {
  meta: {
    type: 'problem',
    docs: { description: 'Imports follow the layers of core/README.md and enter a folder through its index.ts' },
    schema: [{ type: 'object', properties: { root: { type: 'string' } }, additionalProperties: false }],
    messages: {
      layer: '{{from}} may not import {{target}}: {{because}}.',
      door: 'Enter {{folder}} through its index.ts.',
    },
  },
  create(context) {
    const root = context.options[0]?.root ?? projectRoot;
    const from = path.relative(root, context.filename).replaceAll(path.sep, '/');
    const rules = layers.filter((layer) => layer.from.some((place) => isIn(from, place)));

    /** @param {import('estree').Node} node @param {unknown} specifier */
    function check(node, specifier) {
      if (typeof specifier !== 'string') return;
      const inProject = specifier.startsWith('.');
      const builtin = !inProject && isBuiltin(specifier);
      const target = inProject
        ? path.relative(root, path.resolve(path.dirname(context.filename), specifier)).replaceAll(path.sep, '/')
        : builtin
          ? `node:${specifier.replace(/^node:/, '')}`
          : specifier;
      for (const { forbids = [], only, because } of rules) {
        const forbidden =
          forbids.some((place) => isIn(target, place) || (place === 'node:*' && builtin)) ||
          (only !== undefined && inProject && !only.some((place) => isIn(target, place)));
        if (forbidden)
          return context.report({ node, messageId: 'layer', data: { from: from.split('/').slice(0, 2).join('/'), target, because } });
      }
      // Tests may look inside a folder; everybody else uses its door.
      if (!inProject || from.startsWith('test/')) return;
      for (let folder = path.posix.dirname(target); folder !== '.' && !folder.startsWith('..'); folder = path.posix.dirname(folder)) {
        if (isIn(from, folder) || target === `${folder}/index.ts`) continue;
        if (existsSync(path.join(root, folder, 'index.ts'))) return context.report({ node, messageId: 'door', data: { folder } });
      }
    }

    /** @param {{ source?: unknown }} node */
    const checkSource = (node) => {
      const source = /** @type {import('estree').Literal | null | undefined} */ (node.source);
      if (source) check(source, source.value);
    };
    return {
      ImportDeclaration: checkSource,
      ExportNamedDeclaration: checkSource,
      ExportAllDeclaration: checkSource,
      ImportExpression: checkSource,
      // import('./x.ts').Type
      TSImportType: checkSource,
    };
  },
};
