/** Calls of the page on training runs, and on weights from and for other programs. */
import { mkdirSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import {
  AppError,
  type HostService,
  type Inputs,
  type NetworkExportRow,
  type PcaStep,
  type ProbeReport,
  type PublishedWeights,
  type RunRow,
  type TrainMetrics,
  type TrainMonitors,
  type TrainPresets,
  type WeightsRow,
} from '../../contract/index.ts';
import { isInside } from '../folders.ts';
import { exportNetwork, importWeights, publishedWeights, removeWeightsFolder } from '../networks.ts';
import { freshCuration } from '../store/curation.ts';
import { imageFiles } from '../store/images.ts';
import { presentModel } from '../store/overview.ts';
import { addRun, pcaSteps, runDir, runRow, runRows, setRunState, trainMetrics, trainMonitors, trainProbe } from '../store/runs.ts';
import { deleteWeights, networkExportRows, weightsRow, weightsRows } from '../store/weights.ts';
import { type Session, cacheDirOf, pixelDirOf } from '../session.ts';

export function trainingCalls(session: Session) {
  return {
    async trainPresets({ from, distillFrom }: NonNullable<Inputs['trainPresets']> = { from: null }): Promise<TrainPresets> {
      const sources = { start: session.startFrom(from), teacher: session.startFrom(distillFrom) };
      return session.planner.presets(imageFiles(session.open()).length, sources);
    },

    async startTraining(input: Inputs['startTraining']): Promise<RunRow> {
      const { presetId, list, exclude, engine, precision, from, distillFrom, ...overrides } = input;
      const project = session.writable();
      session.jobs.refuseIfBusy('training');
      const images = imageFiles(project);
      if (images.length === 0)
        throw new AppError('too-few-images', 'The project has no images.', 'Scan a folder that has some, then train.');
      const sources = { start: session.startFrom(from), teacher: session.startFrom(distillFrom) };
      if (sources.start && sources.teacher) {
        const what = 'A run that learns from another network starts from random weights.';
        throw new AppError('bad-input', what, 'Choose either weights to start from or a network to learn from.');
      }
      const config = await session.planner.config(presetId, images.length, overrides, engine, sources);
      if (config.presetId !== presetId) {
        throw new AppError('bad-input', `The preset ${presetId} does not go with that start.`, `Choose ${config.presetId}.`);
      }
      session.jobs.refuseIfBusy('training');
      const runId = project.write((w) =>
        addRun(w, { presetTitle: config.presetTitle, model: config.model.name, totalSteps: config.steps }),
      );
      const dir = runDir(project, runId);
      mkdirSync(dir, { recursive: true });
      const start = {
        images,
        config,
        ...(sources.start && { startFile: sources.start.file }),
        ...(sources.teacher && { teacherFile: sources.teacher.file }),
        list: list ?? { dedupe: true, balance: false, keep: null },
        exclude: exclude ?? [],
        curation: freshCuration(project),
        cacheDir: cacheDirOf(project),
      };
      session.start(
        {
          kind: 'pretrain',
          runDir: dir,
          imageRoot: project.facts.image_folder,
          pixelDir: pixelDirOf(project),
          start,
          engine: engine ?? null,
          precision: precision ?? null,
        },
        runId,
        null,
        images.map(({ id }) => id),
      );
      session.hub.changed('runs', 'project');
      return runRow(project, runId);
    },

    async resumeTraining({ runId, engine, precision }: Inputs['resumeTraining']): Promise<RunRow> {
      const project = session.writable();
      session.jobs.refuseIfBusy('training');
      const dir = runDir(project, runId);
      session.start(
        {
          kind: 'pretrain',
          runDir: dir,
          imageRoot: project.facts.image_folder,
          pixelDir: pixelDirOf(project),
          start: null,
          engine: engine ?? null,
          precision: precision ?? null,
        },
        runId,
        null,
      );
      project.write((w) => setRunState(w, runId, 'running', null));
      session.hub.changed('runs');
      return runRow(project, runId);
    },

    async runs(): Promise<RunRow[]> {
      return runRows(session.open());
    },

    async trainMetrics({ runId, afterStep }: Inputs['trainMetrics']): Promise<TrainMetrics[]> {
      return trainMetrics(runDir(session.open(), runId), afterStep);
    },

    async trainMonitors({ runId }: Inputs['runId']): Promise<TrainMonitors> {
      const project = session.open();
      return trainMonitors(runDir(project, runId), runRow(project, runId).state !== 'running');
    },

    async trainProbe({ runId }: Inputs['runId']): Promise<ProbeReport | null> {
      return trainProbe(runDir(session.open(), runId));
    },

    async pcaSteps({ runId }: Inputs['runId']): Promise<PcaStep[]> {
      const project = session.open();
      return pcaSteps(project, runRow(project, runId).id);
    },

    async publishedWeights(): Promise<PublishedWeights[]> {
      return publishedWeights();
    },

    async weights(): Promise<WeightsRow[]> {
      return weightsRows(session.open());
    },

    // In turn with opening and closing: the project must not close under them, and one file must not be written twice at once.

    importWeights({ fileId, sha256 }: Inputs['importWeights']): Promise<WeightsRow> {
      return session.inTurn(async () => {
        const row = await importWeights(session.writable(), session.options.folders.file(fileId), sha256);
        session.hub.changed('weights');
        return row;
      });
    },

    removeWeights({ weightsId }: Inputs['weightsId']): Promise<void> {
      return session.inTurn(async () => {
        const project = session.writable();
        const { fileName } = weightsRow(project, weightsId);
        const present = presentModel(project)?.choice;
        if (present && 'weightsId' in present && present.weightsId === weightsId) {
          throw new AppError(
            'weights-in-use',
            `The present proposals come from ${fileName}, and learning from decisions needs it.`,
            'Propose masks with another network first, then remove it.',
          );
        }
        session.jobs.refuseIfBusy('proposing'); // it may be reading them
        session.jobs.refuseIfBusy('training'); // it may not have copied them yet
        project.write((w) => deleteWeights(w, weightsId));
        session.hub.changed('weights');
        await removeWeightsFolder(project, weightsId);
      });
    },

    async exportNetwork(input: Inputs['exportNetwork']): Promise<NetworkExportRow> {
      return exportNetworkTo(session, input, null);
    },

    async networkExports(): Promise<NetworkExportRow[]> {
      return networkExportRows(session.open());
    },
  } satisfies Partial<HostService>;
}

/** For the command line; the page has no paths. @param out absolute, see networks.ts */
export function exportNetworkTo(
  session: Session,
  { network, format }: Inputs['exportNetwork'],
  out: string | null,
): Promise<NetworkExportRow> {
  return session.inTurn(async () => {
    const project = session.writable();
    if (out !== null && isInside(await withoutLinks(out), project.facts.image_folder)) {
      throw new AppError('bad-input', `${out} is in the image folder, which Patchwise never writes to.`, 'Choose another place.');
    }
    const choice = 'weightsId' in network ? network : session.checkpoint(network.runId, network.step)!;
    const row = await exportNetwork(project, choice, format, out);
    session.hub.changed('exports');
    return row;
  });
}

/** The true place of a path whose last parts may not be there yet. */
async function withoutLinks(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || dirname(path) === path) throw error;
    return join(await withoutLinks(dirname(path)), basename(path));
  }
}
