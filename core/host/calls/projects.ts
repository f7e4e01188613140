/** Calls of the page on the app itself and on which project is open. */
import { mkdirSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import {
  AppError,
  type AppInfo,
  type FileEntry,
  type FolderEntry,
  type HostService,
  type Inputs,
  type ProjectSummary,
  type RecentProject,
  type Settings,
} from '../../contract/index.ts';
import { isInside } from '../folders.ts';
import { Project } from '../project.ts';
import { projectSummary } from '../store/overview.ts';
import type { Session, ChoosePath } from '../session.ts';

export function projectCalls(session: Session) {
  return {
    async info(): Promise<AppInfo> {
      const { version, chooseFolder, config } = session.options;
      return { version, nativeDialogs: chooseFolder !== undefined, engine: await session.planner.engine(), settings: config.settings() };
    },

    async saveSettings(input: Inputs['saveSettings']): Promise<Settings> {
      session.options.config.saveSettings(input);
      session.hub.changed('settings');
      return session.options.config.settings();
    },

    async folderRoots(): Promise<FolderEntry[]> {
      return session.options.folders.roots();
    },

    async folderChildren({ folderId }: Inputs['folderChildren']) {
      return session.options.folders.children(folderId);
    },

    async chooseFolder({ purpose }: Inputs['chooseFolder']): Promise<FolderEntry | null> {
      const path = await choose(session, purpose);
      return path === null ? null : session.options.folders.chosen(path);
    },

    async folderFiles({ folderId }: Inputs['folderFiles']): Promise<FileEntry[]> {
      return session.options.folders.files(folderId);
    },

    async chooseWeightsFile(): Promise<FileEntry | null> {
      const path = await choose(session, 'weights');
      return path === null ? null : session.options.folders.chosenFile(path);
    },

    async recentProjects(): Promise<RecentProject[]> {
      return session.options.config.recent();
    },

    async currentProject(): Promise<ProjectSummary | null> {
      return session.project && projectSummary(session.project);
    },

    createProject({ name, imagesId, locationId }: Inputs['createProject']): Promise<ProjectSummary> {
      return session.inTurn(async () => {
        const images = session.options.folders.path(imagesId);
        if (locationId === null) mkdirSync(session.options.projectsDir, { recursive: true });
        const location = locationId === null ? await realpath(session.options.projectsDir) : session.options.folders.path(locationId);
        if (isInside(location, images)) {
          throw new AppError(
            'bad-input',
            `${location} is in the image folder, which Patchwise never writes to.`,
            'Choose another place for the project.',
          );
        }
        return session.use(Project.create(join(location, folderName(name)), name, images));
      });
    },

    openProject({ folderId }: Inputs['openProject']): Promise<ProjectSummary> {
      return session.openAt(session.options.folders.path(folderId));
    },

    openRecent({ recentId }: Inputs['openRecent']): Promise<ProjectSummary> {
      const location = session.options.config.locationOf(recentId);
      if (location === undefined)
        throw new AppError('project-not-found', 'This project is no longer in the list.', 'Open its folder instead.');
      return session.openAt(location);
    },

    closeProject(): Promise<void> {
      return session.inTurn(() => session.leave());
    },

    rescan: () => session.rescan(),
  } satisfies Partial<HostService>;
}

/** @throws AppError not-allowed outside Electron */
async function choose(session: Session, purpose: Parameters<ChoosePath>[0]): Promise<string | null> {
  if (!session.options.chooseFolder) {
    throw new AppError(
      'not-allowed',
      'There is no native dialog outside the desktop app.',
      'Choose from the folders named with --root when Patchwise was started.',
    );
  }
  return session.options.chooseFolder(purpose);
}

/** A folder name that every file system takes, from a project's name. */
export function folderName(name: string): string {
  const safe = name
    .replace(/[<>:"/\\|?*\u0000-\u001f]/g, '-')
    .replace(/[. ]+$/, '')
    .slice(0, 100);
  const reserved = /^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/i; // Windows' device names
  return safe === '' || safe.startsWith('.') || reserved.test(safe) ? `project-${safe.replace(/^\.+/, '')}` : safe;
}
