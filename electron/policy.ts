/** Where the window may go and what it may load: the host's page, nothing else. */

/** Chromium's own traffic is off: nothing here leaves the machine, not even for updates of its parts. */
export const chromiumSwitches: readonly (readonly [name: string, value?: string])[] = [
  ['disable-background-networking'],
  ['disable-component-update'],
  ['disable-domain-reliability'],
  ['disable-sync'],
  ['disable-breakpad'],
  ['no-pings'],
  ['no-proxy-server'],
  // No name is ever looked up: the page comes from 127.0.0.1.
  ['host-resolver-rules', 'MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
];

/** Whether the window may show `url`: a page of the host at `origin` (http://127.0.0.1:PORT; empty while no host runs). */
export function mayNavigate(url: string, origin: string): boolean {
  if (!URL.canParse(url)) return false;
  const { protocol, origin: its } = new URL(url);
  return protocol === 'http:' && its === origin;
}

/** Whether the page may load `url`: from the host over HTTP or a socket, or from its own memory. */
export function mayRequest(url: string, origin: string): boolean {
  if (!URL.canParse(url)) return false;
  const { protocol, host, origin: its } = new URL(url);
  switch (protocol) {
    case 'http:':
    case 'blob:':
      return its === origin;
    case 'ws:':
      return `http://${host}` === origin;
    default:
      // devtools: the inspector's own files, shipped inside Electron.
      return protocol === 'data:' || protocol === 'devtools:';
  }
}
