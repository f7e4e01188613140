/**
 * A process of its own that looks for an adapter and prints what it found as JSON: a driver that crashes takes only it
 * along. With the argument `survey` it prints a line for each thing it finds out, with `survey check` all of them; with
 * `check` and how to compute, as JSON, what is wrong with that.
 */
import { cardMemory } from './cardMemory.ts';
import { describeAdapter } from './device.ts';
import type { CheckedWay } from './survey.ts';

const [wanted = '', detail = ''] = process.argv.slice(2);
const print = (found: object): void => console.log(JSON.stringify(found));

try {
  if (wanted === 'survey') {
    const { survey } = await import('./survey.ts');
    for await (const found of survey(detail === 'check')) print(found);
  } else if (wanted === 'check') {
    const { checkAdapter } = await import('./survey.ts');
    print({ check: await checkAdapter(JSON.parse(detail) as CheckedWay) });
  } else {
    const adapter = await describeAdapter();
    print({ adapter, memory: cardMemory(adapter.description) });
  }
} catch (error) {
  print({ problem: (error as Error).message });
}
// Threads of the reference, and a driver's own, must not keep it.
process.stdout.write('', () => process.exit(0));
