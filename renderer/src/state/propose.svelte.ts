/** Starting proposals: the dialog's state, shared by the pages that offer it. */

class ProposeDialog {
  open = $state(false);
  /** The run and step offered first; null: the newest run, its chosen checkpoint. */
  runId = $state<string | null>(null);
  step = $state<number | null>(null);
  /** Imported weights offered first, in place of a run. */
  weightsId = $state<string | null>(null);

  show(runId: string | null = null, step: number | null = null): void {
    this.runId = runId;
    this.step = step;
    this.weightsId = null;
    this.open = true;
  }

  showWeights(weightsId: string): void {
    this.show();
    this.weightsId = weightsId;
  }
}

export const proposeDialog = new ProposeDialog();
