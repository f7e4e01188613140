/**
 * The app's window around the host's page. Electron comes as an argument, so that tests can stand in for it; where the
 * files are is main.ts's.
 */
import type { BrowserWindow as Window, Session } from 'electron';
import { readWindowState, writeWindowState } from './bounds.ts';
import { Engine } from './engine.ts';
import { menuTemplate } from './menu.ts';
import { chromiumSwitches, mayNavigate, mayRequest } from './policy.ts';

/** The part of Electron that the shell uses. */
export type Electron = Pick<typeof import('electron'), 'app' | 'BrowserWindow' | 'dialog' | 'Menu' | 'nativeTheme' | 'screen' | 'session'>;

export interface ShellOptions {
  readonly electron: Electron;
  /** Node 24's program, and core/host/main.ts. */
  readonly node: string;
  readonly entry: string;
  /** Of the engine: which project to open. */
  readonly args: readonly string[];
  /** The compiled preload script. */
  readonly preload: string;
  /** PNG, for Linux; the other platforms take it from the program. */
  readonly icon: string;
}

const titles = { images: 'Choose a folder of images', project: 'Choose a project', weights: 'Choose a file of DINOv2 weights' };
const weightsFilter = { name: 'DINOv2 weights', extensions: ['pth', 'pt', 'bin', 'ckpt', 'safetensors'] };

/** Runs the app until it quits. */
export async function startShell(options: ShellOptions): Promise<void> {
  const { app } = options.electron;
  app.enableSandbox();
  for (const [name, value] of chromiumSwitches) app.commandLine.appendSwitch(name, value ?? '');
  if (!app.requestSingleInstanceLock()) {
    // The first instance shows its window; a second engine on the same project would only be turned away.
    app.quit();
    return;
  }
  await app.whenReady();
  const shell = new Shell(options);
  await shell.run();
}

class Shell {
  readonly #electron: Electron;
  readonly #options: ShellOptions;
  readonly #engine: Engine;
  readonly #session: Session;
  readonly #stateFile: string;
  #window: Window | null = null;
  /** Of the running host's page; empty while there is none. */
  #origin = '';
  #quitting = false;

  constructor(options: ShellOptions) {
    const { node, entry, args, electron } = options;
    this.#options = options;
    this.#electron = electron;
    this.#engine = new Engine({
      node,
      entry,
      args,
      chooseFolder: (purpose) => this.#chooseFolder(purpose),
      onDeath: (reason) => void this.#engineDied(reason),
    });
    this.#stateFile = `${electron.app.getPath('userData')}/window.json`;
    // Kept, so that strokes not yet saved survive the end of the app; no cache on the disk, and the host's cookie has no
    // lifetime of its own, so it ends with the session.
    this.#session = electron.session.fromPartition('persist:patchwise', { cache: false });
  }

  async run(): Promise<void> {
    const { app, Menu } = this.#electron;
    app.on('second-instance', () => this.#showWindow());
    app.on('window-all-closed', () => app.quit());
    app.on('before-quit', (event) => {
      if (this.#quitting || !this.#engine.running) return;
      event.preventDefault();
      void this.#quit();
    });
    app.on('web-contents-created', (_event, contents) => contents.on('will-attach-webview', (event) => event.preventDefault()));
    Menu.setApplicationMenu(
      Menu.buildFromTemplate(menuTemplate(process.platform, { showKeys: () => this.#window?.webContents.send('patchwise:keys') })),
    );
    await this.#secureSession();
    await this.#startEngine();
  }

  async #secureSession(): Promise<void> {
    const session = this.#session;
    session.setSpellCheckerEnabled(false);
    session.setPermissionRequestHandler((_contents, _permission, answer) => answer(false));
    session.setPermissionCheckHandler(() => false);
    session.setDevicePermissionHandler(() => false);
    session.webRequest.onBeforeRequest((details, answer) => answer({ cancel: !mayRequest(details.url, this.#origin) }));
    await session.setProxy({ mode: 'direct' });
  }

  /** Starts the engine and shows its page, or says why not and asks what to do. */
  async #startEngine(): Promise<void> {
    let url: string;
    try {
      url = await this.#engine.start();
    } catch (error) {
      await this.#engineDied((error as Error).message);
      return;
    }
    this.#origin = new URL(url).origin;
    this.#window ??= this.#createWindow();
    // Shown even when the page did not load: an invisible window helps nobody. The engine's death is told by #engineDied.
    await this.#window.loadURL(url).catch(() => this.#window?.show());
  }

  async #engineDied(reason: string): Promise<void> {
    if (this.#quitting) return;
    this.#origin = '';
    const message = {
      type: 'error' as const,
      title: 'Patchwise',
      message: 'The engine stopped',
      detail: `${reason}\n\nNothing decided so far is lost. Training goes on from its last checkpoint when you resume it.`,
      buttons: ['Restart', 'Quit'],
      defaultId: 0,
      cancelId: 1,
      noLink: true,
    };
    const { dialog, app } = this.#electron;
    const { response } = this.#window ? await dialog.showMessageBox(this.#window, message) : await dialog.showMessageBox(message);
    if (response === 0) await this.#startEngine();
    else app.quit();
  }

  #createWindow(): Window {
    const { BrowserWindow, nativeTheme, screen } = this.#electron;
    const displays = screen.getAllDisplays().map((display) => display.workArea);
    const { maximized = false, ...bounds } = readWindowState(this.#stateFile, displays) ?? { width: 1440, height: 900 };
    const window = new BrowserWindow({
      ...bounds,
      minWidth: 900,
      minHeight: 600,
      show: false,
      title: 'Patchwise',
      icon: this.#options.icon,
      backgroundColor: nativeTheme.shouldUseDarkColors ? '#16181d' : '#ffffff',
      webPreferences: {
        session: this.#session,
        preload: this.#options.preload,
        sandbox: true,
        contextIsolation: true,
        nodeIntegration: false,
        webviewTag: false,
        spellcheck: false,
        webSecurity: true,
        navigateOnDragDrop: false,
      },
    });
    const contents = window.webContents;
    const keepInside = (event: { url: string; preventDefault(): void }) => {
      if (!mayNavigate(event.url, this.#origin)) event.preventDefault();
    };
    contents.on('will-navigate', keepInside);
    contents.on('will-redirect', keepInside);
    contents.on('will-frame-navigate', keepInside);
    contents.setWindowOpenHandler(() => ({ action: 'deny' }));
    contents.on('render-process-gone', (_event, { reason }) => {
      if (reason !== 'clean-exit' && !this.#quitting) contents.reload();
    });
    window.once('ready-to-show', () => {
      if (maximized) window.maximize();
      window.show();
    });
    window.on('close', () => writeWindowState(this.#stateFile, { ...window.getNormalBounds(), maximized: window.isMaximized() }));
    window.on('closed', () => (this.#window = null));
    return window;
  }

  #showWindow(): void {
    if (!this.#window) return;
    if (this.#window.isMinimized()) this.#window.restore();
    this.#window.focus();
  }

  async #chooseFolder(purpose: keyof typeof titles): Promise<string | null> {
    const title = titles[purpose];
    const options =
      purpose === 'weights'
        ? { title, message: title, properties: ['openFile' as const], filters: [weightsFilter] }
        : { title, message: title, properties: ['openDirectory' as const, 'createDirectory' as const] };
    const { dialog } = this.#electron;
    const { canceled, filePaths } = this.#window
      ? await dialog.showOpenDialog(this.#window, options)
      : await dialog.showOpenDialog(options);
    return canceled ? null : (filePaths[0] ?? null);
  }

  /** Lets the engine save and end, then quits. */
  async #quit(): Promise<void> {
    this.#quitting = true;
    await this.#engine.stop();
    this.#electron.app.quit();
  }
}
