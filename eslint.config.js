/** Lint for the whole project: npm run check. Layout is Prettier's; what imports what is build/lint/rooms.js's. */
import js from '@eslint/js';
import { createNodeResolver, importX } from 'eslint-plugin-import-x';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';
import patchwise from './build/lint/rooms.js';

const kernels = 'core/nn/cpu/kernels/**/*.ts';

export default ts.config(
  { ignores: ['dist/', 'demo/', '.cache/', 'node_modules/'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  ts.configs.recommended,
  svelte.configs.recommended,
  {
    plugins: { patchwise, 'import-x': importX },
    settings: {
      'import-x/resolver-next': [createNodeResolver({ extensions: ['.ts', '.js', '.mjs', '.svelte'] })],
      'import-x/extensions': ['.ts', '.js', '.mjs', '.svelte'],
      'import-x/parsers': { '@typescript-eslint/parser': ['.ts', '.cts'], 'svelte-eslint-parser': ['.svelte'] },
    },
    rules: {
      'patchwise/rooms': 'error',
      'import-x/no-cycle': 'error',
      'import-x/no-self-import': 'error',
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-console': 'off',
      'prefer-const': ['error', { destructuring: 'all' }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'none' }],
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'separate-type-imports', disallowTypeAnnotations: false }],
    },
  },
  {
    files: ['build/**', 'core/**', 'electron/**', 'test/**', '*.js'],
    languageOptions: { globals: globals.node },
  },
  {
    files: ['renderer/**'],
    languageOptions: { globals: globals.browser },
  },
  {
    // With types, the few rules that find real bugs: a promise nobody waits for, a forgotten case.
    files: ['**/*.ts', '**/*.cts', '**/*.svelte', '**/*.svelte.ts'],
    ignores: [kernels],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname, extraFileExtensions: ['.svelte'], parser: ts.parser },
    },
    rules: {
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/no-floating-promises': ['error', { allowForKnownSafeCalls: [{ from: 'package', name: ['test', 'it', 'describe', 'suite'], package: 'node:test' }] }],
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: { attributes: false } }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
    },
  },
  {
    // AssemblyScript: read as TypeScript without types. Numbers have widths, == is its only equality.
    files: [kernels],
    languageOptions: { parserOptions: { allowInvalidAST: true } },
    rules: {
      eqeqeq: 'off',
      'import-x/no-cycle': 'off',
      '@typescript-eslint/ban-ts-comment': 'off',
      'no-loss-of-precision': 'off',
      'no-undef': 'off',
    },
  },
);
