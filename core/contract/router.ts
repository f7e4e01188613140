/** HostService as a tRPC router. The page imports only the type `AppRouter`. */
import { initTRPC, TRPCError } from '@trpc/server';
import { AppError, errorFacts, type ErrorFacts } from './errors.ts';
import { inputs, type HostService } from './service.ts';

const t = initTRPC.create({
  // The page matches `facts.code`, never English text.
  errorFormatter({ shape, error }) {
    const facts: ErrorFacts =
      error.code === 'BAD_REQUEST' && !(error.cause instanceof AppError)
        ? {
            code: 'bad-input',
            message: `The call was not understood: ${error.message}`,
            action: 'Reload the page; if it comes back, please report it.',
          }
        : errorFacts(error.cause ?? error);
    return { ...shape, message: facts.message, data: { code: shape.data.code, httpStatus: shape.data.httpStatus, facts } };
  },
});

/** Runs a service call; AppErrors reach the formatter as the cause. */
async function run<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    const code = error instanceof AppError ? 'PRECONDITION_FAILED' : 'INTERNAL_SERVER_ERROR';
    throw new TRPCError({ code, message: error instanceof Error ? error.message : String(error), cause: error });
  }
}

export function createRouter(service: HostService) {
  const p = t.procedure;
  return t.router({
    info: p.query(() => run(() => service.info())),
    saveSettings: p.input(inputs.saveSettings).mutation(({ input }) => run(() => service.saveSettings(input))),

    folderRoots: p.query(() => run(() => service.folderRoots())),
    folderChildren: p.input(inputs.folderChildren).query(({ input }) => run(() => service.folderChildren(input))),
    chooseFolder: p.input(inputs.chooseFolder).mutation(({ input }) => run(() => service.chooseFolder(input))),
    folderFiles: p.input(inputs.folderFiles).query(({ input }) => run(() => service.folderFiles(input))),
    chooseWeightsFile: p.mutation(() => run(() => service.chooseWeightsFile())),

    recentProjects: p.query(() => run(() => service.recentProjects())),
    currentProject: p.query(() => run(() => service.currentProject())),
    createProject: p.input(inputs.createProject).mutation(({ input }) => run(() => service.createProject(input))),
    openProject: p.input(inputs.openProject).mutation(({ input }) => run(() => service.openProject(input))),
    openRecent: p.input(inputs.openRecent).mutation(({ input }) => run(() => service.openRecent(input))),
    closeProject: p.mutation(() => run(() => service.closeProject())),
    rescan: p.mutation(() => run(() => service.rescan())),

    imagesPage: p.input(inputs.imagesPage).query(({ input }) => run(() => service.imagesPage(input))),
    imagePaths: p.input(inputs.imagePaths).query(({ input }) => run(() => service.imagePaths(input))),
    problems: p.query(() => run(() => service.problems())),

    classes: p.query(() => run(() => service.classes())),
    createClass: p.input(inputs.createClass).mutation(({ input }) => run(() => service.createClass(input))),
    updateClass: p.input(inputs.updateClass).mutation(({ input }) => run(() => service.updateClass(input))),
    removeClass: p.input(inputs.removeClass).mutation(({ input }) => run(() => service.removeClass(input))),

    startCuration: p.input(inputs.startCuration).mutation(({ input }) => run(() => service.startCuration(input))),
    curation: p.query(() => run(() => service.curation())),
    duplicateGroups: p.input(inputs.page).query(({ input }) => run(() => service.duplicateGroups(input))),
    trainingList: p.input(inputs.trainingList).query(({ input }) => run(() => service.trainingList(input))),
    leftOut: p.input(inputs.leftOut).query(({ input }) => run(() => service.leftOut(input))),
    similarImages: p.input(inputs.similarImages).query(({ input }) => run(() => service.similarImages(input))),

    jobs: p.query(() => run(() => service.jobs())),
    stopTraining: p.mutation(() => run(() => service.stopTraining())),
    stopProposing: p.mutation(() => run(() => service.stopProposing())),
    events: p.subscription(({ signal }) => service.events(signal ?? new AbortController().signal)),

    trainPresets: p.input(inputs.trainPresets).query(({ input }) => run(() => service.trainPresets(input))),
    startTraining: p.input(inputs.startTraining).mutation(({ input }) => run(() => service.startTraining(input))),
    resumeTraining: p.input(inputs.resumeTraining).mutation(({ input }) => run(() => service.resumeTraining(input))),
    runs: p.query(() => run(() => service.runs())),
    trainMetrics: p.input(inputs.trainMetrics).query(({ input }) => run(() => service.trainMetrics(input))),
    trainMonitors: p.input(inputs.runId).query(({ input }) => run(() => service.trainMonitors(input))),
    trainProbe: p.input(inputs.runId).query(({ input }) => run(() => service.trainProbe(input))),
    pcaSteps: p.input(inputs.runId).query(({ input }) => run(() => service.pcaSteps(input))),

    publishedWeights: p.query(() => run(() => service.publishedWeights())),
    weights: p.query(() => run(() => service.weights())),
    importWeights: p.input(inputs.importWeights).mutation(({ input }) => run(() => service.importWeights(input))),
    removeWeights: p.input(inputs.weightsId).mutation(({ input }) => run(() => service.removeWeights(input))),
    exportNetwork: p.input(inputs.exportNetwork).mutation(({ input }) => run(() => service.exportNetwork(input))),
    networkExports: p.query(() => run(() => service.networkExports())),

    startPrelabel: p.input(inputs.startPrelabel).mutation(({ input }) => run(() => service.startPrelabel(input))),
    clusters: p.query(() => run(() => service.clusters())),
    nameCluster: p.input(inputs.nameCluster).mutation(({ input }) => run(() => service.nameCluster(input))),
    discardCluster: p.input(inputs.discardCluster).mutation(({ input }) => run(() => service.discardCluster(input))),

    queue: p.input(inputs.queue).query(({ input }) => run(() => service.queue(input))),
    reviewImage: p.input(inputs.reviewImage).query(({ input }) => run(() => service.reviewImage(input))),
    lookAt: p.input(inputs.imageId).mutation(({ input }) => run(() => service.lookAt(input))),
    decide: p.input(inputs.decide).mutation(({ input }) => run(() => service.decide(input))),
    undo: p.mutation(() => run(() => service.undo())),
    redo: p.mutation(() => run(() => service.redo())),
    setImageDone: p.input(inputs.setImageDone).mutation(({ input }) => run(() => service.setImageDone(input))),
    reviewStats: p.query(() => run(() => service.reviewStats())),

    exportPreflight: p.input(inputs.exportWhat).query(({ input }) => run(() => service.exportPreflight(input))),
    runExport: p.input(inputs.exportWhat).mutation(({ input }) => run(() => service.runExport(input))),
    exports: p.query(() => run(() => service.exports())),
  });
}

export type AppRouter = ReturnType<typeof createRouter>;
