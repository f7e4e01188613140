/** Starting proposals: the dialog's state, shared by the pages that offer it. */

class ProposeDialog {
  open = $state(false);
  /** The run and step offered first; null: the newest run, its chosen checkpoint. */
  runId = $state<string | null>(null);
  step = $state<number | null>(null);

  show(runId: string | null = null, step: number | null = null): void {
    this.runId = runId;
    this.step = step;
    this.open = true;
  }
}

export const proposeDialog = new ProposeDialog();
