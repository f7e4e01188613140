/** Every schema step in order, forward only: entry n brings a file from user_version n to n + 1. Never edit one that has shipped. */
import { sql as first } from './0001-first.ts';
import { sql as passes } from './0002-passes.ts';
import { sql as weights } from './0003-weights.ts';
import { sql as curation } from './0004-curation.ts';
import { sql as waiting } from './0005-waiting.ts';

export const migrations: readonly string[] = [first, passes, weights, curation, waiting];
