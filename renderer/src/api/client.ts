/** The typed calls to the host and the one long-lived stream of its events. */
import { createTRPCClient, httpBatchLink, httpLink, httpSubscriptionLink, splitLink, TRPCClientError } from '@trpc/client';
import type { AppEvent, AppRouter, ErrorFacts } from '../../../core/contract/index.ts';

const url = '/trpc';

/** Queries asked in the same tick travel together; changes go one by one, so that each is answered as soon as it is done. */
export const api = createTRPCClient<AppRouter>({
  links: [
    splitLink({
      condition: (op) => op.type === 'subscription',
      true: httpSubscriptionLink({ url }),
      false: splitLink({
        condition: (op) => op.type === 'mutation',
        true: httpLink({ url }),
        false: httpBatchLink({ url, maxURLLength: 1900, maxItems: 16 }),
      }),
    }),
  ],
});

/** ErrorFacts, or that the host could not be reached at all. */
export interface Facts {
  readonly code: ErrorFacts['code'] | 'unreachable';
  readonly message: string;
  readonly action: string;
}

/** Words for any failed call. */
export function factsOf(error: unknown): Facts {
  if (error instanceof TRPCClientError) {
    const facts = (error.data as { facts?: ErrorFacts } | null | undefined)?.facts;
    if (facts) return facts;
    return {
      code: 'unreachable',
      message: 'Patchwise does not answer.',
      action: 'Wait a moment; if this stays, start the app again. Decisions already made are safe.',
    };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { code: 'internal', message, action: 'Try again; if it comes back, please report it with this text.' };
}

export interface StreamListener {
  /** The stream (again) stands: everything shown may be out of date. */
  opened(): void;
  lost(): void;
  event(event: AppEvent): void;
}

/** Listens to the host's events for as long as the page lives; comes back by itself after the host went away. */
export function listen(listener: StreamListener): void {
  const connect = (): void => {
    let over = false;
    const again = (): void => {
      if (over) return;
      over = true;
      listener.lost();
      setTimeout(connect, 1500);
    };
    api.events.subscribe(undefined, {
      onStarted: () => listener.opened(),
      onData: (event) => listener.event(event),
      onConnectionStateChange: (state) => {
        if (state.state === 'connecting' && state.error) listener.lost();
      },
      onError: again,
      onComplete: again,
    });
  };
  connect();
}

export const fileUrl = {
  thumb: (imageId: number): string => `/files/thumb/${imageId}`,
  image: (imageId: number, maxSide: number): string => `/files/image/${imageId}?max=${maxSide}`,
};
