/** A process of its own that looks for an adapter and prints what it found as JSON: a driver that crashes takes only it along. */
import { describeAdapter } from './device.ts';

try {
  console.log(JSON.stringify({ adapter: await describeAdapter() }));
} catch (error) {
  console.log(JSON.stringify({ problem: (error as Error).message }));
}
