/** Lint for the whole project: npm run check. Layout is Prettier's; what may import what is build/lint's. */
import js from '@eslint/js';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';
import patchwise from './build/lint/index.js';

const kernels = 'core/nn/cpu/kernels/**/*.ts';

export default ts.config(
  { ignores: ['dist/', 'demo/', '.cache/', 'node_modules/'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  ts.configs.recommended,
  svelte.configs.recommended,
  {
    plugins: { patchwise },
    rules: {
      'patchwise/rooms': 'error',
      'patchwise/no-cycle': 'error',
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      // File formats begin with such bytes.
      'no-control-regex': 'off',
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
    // A plain Map is a cache here; what the page shows is $state.
    rules: { 'svelte/prefer-svelte-reactivity': 'off' },
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
      '@typescript-eslint/no-floating-promises': [
        'error',
        { allowForKnownSafeCalls: [{ from: 'package', name: ['test', 'it', 'describe', 'suite'], package: 'node:test' }] },
      ],
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: { attributes: false } }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
    },
  },
  {
    // A sandboxed preload is CommonJS.
    files: ['**/*.cts'],
    rules: { '@typescript-eslint/no-require-imports': 'off' },
  },
  {
    // AssemblyScript: read as TypeScript without types. Numbers have widths, == is its only equality.
    files: [kernels],
    languageOptions: { parserOptions: { allowInvalidAST: true } },
    rules: {
      eqeqeq: 'off',
      '@typescript-eslint/ban-ts-comment': 'off',
      'no-loss-of-precision': 'off',
      'no-undef': 'off',
    },
  },
);
