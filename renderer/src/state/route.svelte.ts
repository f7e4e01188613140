/** Where in the app we are: the part of the address behind `#/`. */

export const pages = ['project', 'images', 'train', 'review', 'export'] as const;
export type Page = (typeof pages)[number];

class Route {
  #parts = $state.raw<readonly string[]>(read());

  constructor() {
    window.addEventListener('hashchange', () => (this.#parts = read()));
  }

  get page(): Page {
    return pages.find((page) => page === this.#parts[0]) ?? 'project';
  }

  /** What follows the page: `review/image/12` has ['image', '12']. */
  get rest(): readonly string[] {
    return this.#parts.slice(1);
  }

  go(path: string): void {
    window.location.hash = `#/${path}`;
  }

  /** Changes the address without a step in the browser's history. */
  replace(path: string): void {
    window.history.replaceState(null, '', `#/${path}`);
    this.#parts = read();
  }
}

function read(): string[] {
  return window.location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map(decodeURIComponent);
}

export const route = new Route();
