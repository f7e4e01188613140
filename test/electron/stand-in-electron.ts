/** Stands in for Electron's API at the boundary of electron/shell.ts: records what it is told, answers dialogs as a test says. */
import { EventEmitter } from 'node:events';
import type { Electron } from '../../electron/shell.ts';

type Handler = (...args: never[]) => unknown;

/** Something told to Electron: "app.quit", "dialog.showMessageBox" with its arguments. */
export interface Call {
  readonly name: string;
  readonly args: readonly unknown[];
}

export class StandInElectron {
  readonly calls: Call[] = [];
  readonly app = new EventEmitter();
  readonly windows: StandInWindow[] = [];
  /** Handlers given to session and webRequest, by name. */
  readonly handlers: Record<string, Handler> = {};
  /** Buttons that the person clicks, in order. */
  readonly clicks: number[] = [];
  /** What the folder dialog returns. */
  folder: { canceled: boolean; filePaths: string[] } = { canceled: true, filePaths: [] };
  isFirstInstance = true;
  readonly userData: string;
  #waiting: { name: string; resolve: () => void }[] = [];

  constructor(userData: string) {
    this.userData = userData;
  }

  note(name: string, ...args: unknown[]): void {
    this.calls.push({ name, args });
    for (const waiting of this.#waiting.filter((one) => one.name === name)) waiting.resolve();
    this.#waiting = this.#waiting.filter((one) => one.name !== name);
  }

  /** Resolves at the next call of that name. */
  next(name: string): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ name, resolve }));
  }

  named(name: string): Call[] {
    return this.calls.filter((call) => call.name === name);
  }

  /** As Electron does it: before-quit may be prevented; then the windows close. */
  quit(): void {
    this.note('app.quit');
    const event = new PreventableEvent();
    this.app.emit('before-quit', event);
    if (event.prevented) return;
    for (const window of this.windows.splice(0)) window.close();
    this.note('quit');
  }

  get api(): Electron {
    const tell =
      (name: string) =>
      (...args: unknown[]) =>
        this.note(name, ...args);
    const keep = (name: string) => (handler: Handler) => void (this.handlers[name] = handler);
    const app = Object.assign(this.app, {
      enableSandbox: tell('app.enableSandbox'),
      commandLine: { appendSwitch: tell('appendSwitch') },
      requestSingleInstanceLock: () => this.isFirstInstance,
      whenReady: () => Promise.resolve(),
      getPath: () => this.userData,
      quit: () => this.quit(),
    });
    const dialog = {
      showMessageBox: (...args: unknown[]) => {
        this.note('dialog.showMessageBox', ...args);
        return Promise.resolve({ response: this.clicks.shift() ?? 1 });
      },
      showOpenDialog: (...args: unknown[]) => {
        this.note('dialog.showOpenDialog', ...args);
        return Promise.resolve(this.folder);
      },
    };
    const session = {
      setSpellCheckerEnabled: tell('session.setSpellCheckerEnabled'),
      setPermissionRequestHandler: keep('permissionRequest'),
      setPermissionCheckHandler: keep('permissionCheck'),
      setDevicePermissionHandler: keep('devicePermission'),
      webRequest: { onBeforeRequest: keep('beforeRequest') },
      setProxy: (config: unknown) => {
        this.note('session.setProxy', config);
        return Promise.resolve();
      },
    };
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- the class below is made per stand-in
    const electron = this;
    const api = {
      app,
      BrowserWindow: class extends StandInWindow {
        constructor(options: object) {
          super(electron, options);
          electron.windows.push(this);
        }
      },
      dialog,
      Menu: { buildFromTemplate: (template: unknown) => template, setApplicationMenu: tell('Menu.setApplicationMenu') },
      nativeTheme: { shouldUseDarkColors: true },
      screen: { getAllDisplays: () => [{ workArea: { x: 0, y: 0, width: 1920, height: 1040 } }] },
      session: {
        fromPartition: (name: string, options?: object) => {
          this.note('session.fromPartition', name, options);
          return session;
        },
      },
    };
    return api as unknown as Electron;
  }
}

export class PreventableEvent {
  prevented = false;
  readonly url: string;

  constructor(url = '') {
    this.url = url;
  }

  preventDefault(): void {
    this.prevented = true;
  }
}

export class StandInWindow extends EventEmitter {
  readonly options: Record<string, unknown>;
  readonly webContents: EventEmitter & Record<'setWindowOpenHandler' | 'send' | 'reload', Handler>;
  openHandler: Handler = () => null;
  readonly #electron: StandInElectron;

  constructor(electron: StandInElectron, options: object) {
    super();
    this.#electron = electron;
    this.options = options as Record<string, unknown>;
    this.webContents = Object.assign(new EventEmitter(), {
      setWindowOpenHandler: (handler: Handler) => void (this.openHandler = handler),
      send: (...args: unknown[]) => electron.note('send', ...args),
      reload: () => electron.note('reload'),
    });
  }

  loadURL(url: string): Promise<void> {
    this.#electron.note('loadURL', url);
    return Promise.resolve();
  }
  show = () => this.#electron.note('show');
  focus = () => this.#electron.note('focus');
  maximize = () => this.#electron.note('maximize');
  restore = () => this.#electron.note('restore');
  isMinimized = () => true;
  isMaximized = () => false;
  getNormalBounds = () => ({ x: 20, y: 30, width: 1300, height: 800 });
  close(): void {
    this.emit('close');
    this.emit('closed');
  }
}
