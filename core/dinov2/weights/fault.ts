/** What is wrong with a weights file, inside this room; `open.ts` makes it an AppError that names the file. */

const FROM_ITS_SOURCE = 'Copy or download the file again from its source, and compare its SHA-256 there.';

export class FileFault extends Error {
  readonly action: string;

  /** @param what to read after "dinov2.pth: ", without a full stop */
  constructor(what: string, action: string = FROM_ITS_SOURCE, options?: { cause?: unknown }) {
    super(what, options);
    this.action = action;
  }
}
