/** Carries out what a key of review means. */
import type { ReviewAction } from '../logic/keymap.ts';
import { app } from '../state/app.svelte.ts';
import { dialogs } from '../state/dialogs.svelte.ts';
import { review } from '../state/review.svelte.ts';

const looks = { fill: 'outline', outline: 'off', off: 'fill' } as const;

export function perform(action: ReviewAction): void {
  switch (action.name) {
    case 'accept':
      // Enter first closes a polygon that is being drawn.
      if (review.session && review.session.corners.length > 0) review.closePolygon();
      else void review.accept();
      return;
    case 'acceptAll':
    case 'rejectAll':
      return review.decideRest(action.name);
    case 'reject':
      return void review.reject();
    case 'unsure':
      return review.unsure();
    case 'edit':
      return void review.startEdit('brush');
    case 'brush':
    case 'eraser':
    case 'polygon':
      return void review.startEdit(action.name);
    case 'newObject':
      return review.startNew();
    case 'cancel':
      return review.cancel();
    case 'nextImage':
      return review.step(1);
    case 'previousImage':
      return review.step(-1);
    case 'nextObject':
      return review.walk(1);
    case 'previousObject':
      return review.walk(-1);
    case 'smaller':
      review.display.brush = Math.max(2, Math.round(review.display.brush / 1.2));
      return;
    case 'larger':
      review.display.brush = Math.min(400, Math.max(review.display.brush + 1, Math.round(review.display.brush * 1.2)));
      return;
    case 'fit':
      return review.view.fit();
    case 'zoomToObject':
      return review.zoomToSelected();
    case 'cycleMasks':
      review.display.look = looks[review.display.look];
      return;
    case 'hideMasks':
      return; // while the key is held: the page does that
    case 'undo':
      return void review.undo();
    case 'redo':
      return void review.redo();
    case 'help':
      dialogs.open = 'keys';
      return;
    case 'class': {
      const row = app.classes.find((candidate) => candidate.key === action.digit);
      if (row) void review.setClass(row.id, action.only);
    }
  }
}
