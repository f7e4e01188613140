/**
 * Runs in the page's sandbox before the page. Gives the page nothing: it only turns the menu's Keys item into the key
 * that the page listens for, so that the page is the same in a browser.
 */
const { ipcRenderer } = require('electron') as typeof import('electron');

declare const window: { dispatchEvent(event: Event): boolean };
declare const KeyboardEvent: new (type: 'keydown', init: { key: string; bubbles: boolean }) => Event;

ipcRenderer.on('patchwise:keys', () => window.dispatchEvent(new KeyboardEvent('keydown', { key: '?', bubbles: true })));
