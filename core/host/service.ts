/**
 * HostService over the open project: what each call of the page does, by area in `calls/`. The work is in `store/` (database),
 * `jobs.ts` (workers), `folders.ts`, `recent.ts` and `exports.ts`; in `session.ts` they meet.
 */
import {
  AppError,
  type AppEvent,
  type HostService,
  type Inputs,
  type JobState,
  type NetworkExportRow,
  type ProjectSummary,
} from '../contract/index.ts';
import { imageCalls } from './calls/images.ts';
import { projectCalls } from './calls/projects.ts';
import { reviewCalls } from './calls/review.ts';
import { exportNetworkTo, trainingCalls } from './calls/training.ts';
import type { Project } from './project.ts';
import { Session, type ServiceOptions } from './session.ts';

/** What the command line and the server may do beside what the page may. */
export interface Service extends HostService {
  /** The open project, for /files. @throws AppError project-not-found */
  opened(): Project;
  /** @param dir absolute */
  openAt(dir: string): Promise<ProjectSummary>;
  /** @param out absolute, see networks.ts; null: the project's folder of exports */
  exportNetworkTo(input: Inputs['exportNetwork'], out: string | null): Promise<NetworkExportRow>;
  /**
   * Waits until everything decided so far has been learned and the rest proposed again; for a caller without a screen.
   * @throws AppError the reason that learning failed
   */
  learned(): Promise<void>;
  /** Stops jobs and closes the project. */
  close(): Promise<void>;
}

/** A service with no project open. */
export function serviceOf(options: ServiceOptions): Service {
  const session = new Session(options);
  return {
    ...projectCalls(session),
    ...imageCalls(session),
    ...trainingCalls(session),
    ...reviewCalls(session),

    // --- jobs ---

    async jobs(): Promise<JobState[]> {
      return session.jobs.states();
    },

    /** Returns when asked, not when ended: the job's state tells that. */
    async stopTraining(): Promise<void> {
      void session.jobs.stop('training');
    },

    async stopProposing(): Promise<void> {
      void session.jobs.stop('proposing');
    },

    events(signal: AbortSignal): AsyncGenerator<AppEvent> {
      return session.hub.listen(
        signal,
        session.jobs.states().map((job) => ({ type: 'job', job })),
      );
    },

    // --- for the command line and the server ---

    opened: () => session.open(),
    openAt: (dir) => session.openAt(dir),
    exportNetworkTo: (input, out) => exportNetworkTo(session, input, out),

    async learned(): Promise<void> {
      session.onScreen = null;
      await session.jobs.ended('proposing');
      await session.learning.startNow();
      const last = await session.jobs.ended('proposing');
      if (last?.kind === 'learn' && last.error) throw new AppError(last.error.code, last.error.message, last.error.action);
    },

    async close(): Promise<void> {
      await session.inTurn(() => session.leave());
      session.hub.close();
    },
  };
}
