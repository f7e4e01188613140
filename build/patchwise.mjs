#!/usr/bin/env node
/** The `patchwise` command of a checkout: `npm run patchwise` without npm. */
import { main } from './bootstrap.mjs';

main(['patchwise', ...process.argv.slice(2)]);
