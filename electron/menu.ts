/** The menu: the platform's standard items, and Keys under Help. */
import type { MenuItemConstructorOptions } from 'electron';

export interface MenuActions {
  /** Shows the page's list of keys. */
  readonly showKeys: () => void;
}

/** @param platform process.platform: macOS has an app menu of its own */
export function menuTemplate(platform: NodeJS.Platform, actions: MenuActions): MenuItemConstructorOptions[] {
  const mac = platform === 'darwin';
  return [
    ...(mac ? [{ role: 'appMenu' as const }] : []),
    { role: 'fileMenu' },
    { role: 'editMenu' },
    { role: 'viewMenu' },
    { role: 'windowMenu' },
    {
      role: 'help',
      submenu: [
        { label: 'Keys', click: () => actions.showKeys() },
        ...(mac ? [] : [{ type: 'separator' as const }, { role: 'about' as const }]),
      ],
    },
  ];
}
