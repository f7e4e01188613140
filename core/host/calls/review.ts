/** Calls of the page on proposals, review and export. */
import type {
  ClusterCard,
  Decision,
  ExportPreflight,
  ExportRow,
  HostService,
  ImageRow,
  Inputs,
  JobState,
  QueueImage,
  ReviewChange,
  ReviewImage,
  ReviewStats,
} from '../../contract/index.ts';
import { exportPreflight, exportRows, runExport } from '../exports.ts';
import { classRow } from '../store/classes.ts';
import { reviewStats } from '../store/figures.ts';
import { redo, saveNote, undo } from '../store/history.ts';
import { imageRow } from '../store/images.ts';
import { reviewImage } from '../store/objects.ts';
import { setImageDone } from '../store/overview.ts';
import { clusterCard, clusterCards, discardCluster, nameCluster } from '../store/proposals.ts';
import { queue } from '../store/queue.ts';
import { decide } from '../store/review.ts';
import type { Session } from '../session.ts';

export function reviewCalls(session: Session) {
  return {
    async startPrelabel({ runId, step, weightsId = null, passes, engine, precision }: Inputs['startPrelabel']): Promise<JobState> {
      session.writable();
      const choice = weightsId === null ? session.checkpoint(runId, step) : { weightsId };
      await session.makeRoom();
      const model = await session.model(choice, passes);
      return session.start({ kind: 'prelabel', ...model.common, engine: engine ?? null, precision: precision ?? null }, null, model);
    },

    async clusters(): Promise<ClusterCard[]> {
      return clusterCards(session.open());
    },

    async nameCluster({ clusterId, classId }: Inputs['nameCluster']): Promise<ClusterCard> {
      const card = session.open().write((w) => {
        nameCluster(w, clusterId, classId);
        saveNote(
          w,
          'nameCluster',
          classId === null ? `Took the name of cluster ${clusterId} away` : `Named cluster ${clusterId} ${classRow(w, classId).name}`,
          session.reviewer(),
        );
        return clusterCard(w, clusterId);
      });
      session.hub.changed('clusters', 'proposals');
      return card;
    },

    async discardCluster({ clusterId, discarded }: Inputs['discardCluster']): Promise<ClusterCard> {
      const card = session.open().write((w) => {
        discardCluster(w, clusterId, discarded);
        saveNote(w, 'discardCluster', `${discarded ? 'Discarded' : 'Took back'} cluster ${clusterId}`, session.reviewer());
        return clusterCard(w, clusterId);
      });
      session.hub.changed('clusters', 'proposals', 'project');
      return card;
    },

    async queue(input: Inputs['queue']): Promise<QueueImage[]> {
      const project = session.open();
      session.shownQueue = input;
      return queue(project, input);
    },

    async reviewImage({ imageId, ahead = false }: Inputs['reviewImage']): Promise<ReviewImage> {
      const found = reviewImage(session.open(), imageId);
      if (!ahead) session.onScreen = imageId;
      return found;
    },

    async lookAt({ imageId }: Inputs['imageId']): Promise<void> {
      session.onScreen = imageId;
    },

    async decide(decision: Decision): Promise<ReviewChange> {
      return reviewed(
        session,
        session.open().write((w) => decide(w, decision, session.reviewer())),
      );
    },

    async undo(): Promise<ReviewChange> {
      return reviewed(
        session,
        session.open().write((w) => undo(w, session.reviewer())),
      );
    },

    async redo(): Promise<ReviewChange> {
      return reviewed(
        session,
        session.open().write((w) => redo(w, session.reviewer())),
      );
    },

    async setImageDone({ imageId, done }: Inputs['setImageDone']): Promise<ImageRow> {
      const row = session.open().write((w) => {
        setImageDone(w, imageId, done);
        return imageRow(w, imageId)!;
      });
      session.hub.changed('images');
      session.learning.decided(); // what is unmarked in it is background from now on, or no longer
      return row;
    },

    async reviewStats(): Promise<ReviewStats> {
      return reviewStats(session.open(), session.options.config.settings().perReviewerFigures);
    },

    async exportPreflight(input: Inputs['exportWhat']): Promise<ExportPreflight> {
      return exportPreflight(session.open(), input);
    },

    async runExport(input: Inputs['exportWhat']): Promise<ExportRow> {
      const row = await runExport(session.writable(), input);
      session.hub.changed('exports');
      return row;
    },

    async exports(): Promise<ExportRow[]> {
      return exportRows(session.open());
    },
  } satisfies Partial<HostService>;
}

/** After a decision: its image is on screen, and there is something to learn. */
function reviewed(session: Session, change: ReviewChange): ReviewChange {
  session.onScreen = change.imageId;
  session.hub.changed('proposals', 'images', 'project');
  session.learning.decided();
  return change;
}
