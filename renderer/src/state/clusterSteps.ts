/** The way back from what was done to clusters on their page, the last first. Decisions in images have a history of their own. */
import { attempt, toasts } from './toasts.svelte.ts';

interface Step {
  readonly back: () => Promise<unknown>;
}

let steps: readonly Step[] = [];

/** Tells what was done, with a button for the way back. */
export function tellStep(text: string, back: () => Promise<unknown>): void {
  const step = { back };
  steps = [...steps, step];
  toasts.note(text, { key: 'cluster', button: { label: 'Undo', run: () => void take(step) } });
}

export function undoStep(): void {
  const last = steps.at(-1);
  if (last) void take(last);
  else toasts.note('There is nothing to undo on this page.', { key: 'cluster' });
}

/** Of another project. */
export function forgetSteps(): void {
  steps = [];
}

async function take(step: Step): Promise<void> {
  if (!steps.includes(step)) return;
  steps = steps.filter((other) => other !== step);
  toasts.closeKey('cluster');
  await attempt(step.back);
}
