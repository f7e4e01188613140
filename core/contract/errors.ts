/**
 * Every error a person can meet: a code the page can match, a sentence with the offending value, and what to do next.
 * Thrown as `AppError` anywhere in core; crosses processes as its `facts`.
 */

/** One entry per situation; the sentence's holes are filled by the thrower. Grouped by room. */
export type ErrorCode =
  // images
  | 'folder-empty'
  | 'folder-unreadable'
  | 'image-empty-file'
  | 'image-truncated'
  | 'image-not-an-image'
  | 'image-too-large'
  | 'image-unreadable'
  | 'image-vanished'
  | 'image-unsupported'
  | 'link-circle'
  // project
  | 'project-not-found'
  | 'project-exists'
  | 'project-newer'
  | 'project-in-use'
  | 'project-read-only'
  | 'project-damaged'
  | 'disk-full'
  // training and proposals
  | 'too-few-images'
  | 'run-not-found'
  | 'run-damaged'
  | 'checkpoint-damaged'
  | 'not-finite'
  | 'engine-unavailable'
  | 'engine-out-of-memory'
  | 'engine-died'
  | 'job-running'
  | 'no-checkpoint'
  | 'weights-unreadable'
  | 'weights-mismatch'
  | 'weights-not-found'
  | 'weights-in-use'
  | 'no-curation'
  // labels and review
  | 'object-gone'
  | 'class-in-use'
  | 'class-name-taken'
  | 'mask-invalid'
  | 'masks-mismatch'
  | 'nothing-to-undo'
  | 'nothing-to-export'
  // calls
  | 'bad-input'
  | 'not-allowed'
  | 'internal';

export interface ErrorFacts {
  readonly code: ErrorCode;
  /** What happened, with the offending value: "photo.jpg ends after 1,024 of 20,480 bytes." */
  readonly message: string;
  /** What the person can do next: "Copy the file again from its source." */
  readonly action: string;
}

/** An error with words for a person. Never carries a stack to the page. */
export class AppError extends Error implements ErrorFacts {
  readonly code: ErrorCode;
  readonly action: string;

  constructor(code: ErrorCode, message: string, action: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'AppError';
    this.code = code;
    this.action = action;
  }

  /** The plain object that crosses a process or the network. */
  get facts(): ErrorFacts {
    return { code: this.code, message: this.message, action: this.action };
  }
}

/** Facts of any thrown value; unknown errors become `internal` with their own message. */
export function errorFacts(error: unknown): ErrorFacts {
  if (error instanceof AppError) return error.facts;
  const code = (error as NodeJS.ErrnoException | null)?.code;
  const message = error instanceof Error ? error.message : String(error);
  if (code === 'ENOSPC') {
    return {
      code: 'disk-full',
      message: `The disk is full: ${message}.`,
      action: 'Free some space, then go on; nothing decided so far is lost.',
    };
  }
  if (code === 'EROFS' || code === 'EACCES' || code === 'EPERM') {
    return {
      code: 'project-read-only',
      message: `No permission to write: ${message}.`,
      action: 'Choose a folder you may write to, or change its permissions.',
    };
  }
  return { code: 'internal', message, action: 'Try again; if it comes back, please report it with this text.' };
}
