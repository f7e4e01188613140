/**
 * Which key does what in review. Letters are bound by their place on the keyboard (`event.code`), so that they work on
 * AZERTY, Cyrillic and with input methods. What other programs bind by the character is bound by it here too: `?`, and letters
 * with Ctrl, as far as the layout has Latin ones.
 */

export interface KeyStroke {
  readonly code: string;
  readonly key: string;
  readonly ctrlKey: boolean;
  readonly metaKey: boolean;
  readonly shiftKey: boolean;
  readonly altKey: boolean;
}

export type ReviewAction =
  | { readonly name: 'accept' | 'acceptAll' | 'reject' | 'rejectAll' | 'unsure' | 'edit' | 'newObject' | 'cancel' }
  | { readonly name: 'nextImage' | 'previousImage' | 'nextObject' | 'previousObject' }
  | { readonly name: 'brush' | 'eraser' | 'polygon' | 'smaller' | 'larger' }
  | { readonly name: 'fit' | 'zoomToObject' | 'cycleMasks' | 'hideMasks' }
  | { readonly name: 'undo' | 'redo' | 'help' }
  /** Digit 1-9; `only` leaves the object undecided. */
  | { readonly name: 'class'; readonly digit: number; readonly only: boolean };

const plain: Readonly<Record<string, ReviewAction['name']>> = {
  Enter: 'accept',
  NumpadEnter: 'accept',
  Delete: 'reject',
  Backspace: 'reject',
  Escape: 'cancel',
  Tab: 'nextObject',
  KeyE: 'edit',
  KeyU: 'unsure',
  KeyN: 'newObject',
  KeyA: 'previousImage',
  KeyD: 'nextImage',
  KeyB: 'brush',
  KeyX: 'eraser',
  KeyP: 'polygon',
  BracketLeft: 'smaller',
  BracketRight: 'larger',
  KeyF: 'fit',
  KeyZ: 'zoomToObject',
  KeyO: 'cycleMasks',
  KeyV: 'hideMasks',
  KeyH: 'hideMasks',
  F1: 'help',
};

/** The action of a key press, or null. Alt is a modifier of the brush and binds nothing; Ctrl and Cmd are the same. */
export function actionOf(stroke: KeyStroke): ReviewAction | null {
  if (stroke.ctrlKey || stroke.metaKey) {
    if (stroke.altKey) return null;
    const letter = /^[a-z]$/i.test(stroke.key) ? stroke.key.toLowerCase() : stroke.code.replace(/^Key/, '').toLowerCase();
    if (letter === 'z') return { name: stroke.shiftKey ? 'redo' : 'undo' };
    return letter === 'y' && !stroke.shiftKey ? { name: 'redo' } : null;
  }
  if (stroke.key === '?') return { name: 'help' };
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(stroke.code)?.[1];
  if (digit) return { name: 'class', digit: Number(digit), only: stroke.shiftKey };
  if (stroke.shiftKey) {
    if (stroke.code === 'Enter' || stroke.code === 'NumpadEnter') return { name: 'acceptAll' };
    if (stroke.code === 'Delete' || stroke.code === 'Backspace') return { name: 'rejectAll' };
    return stroke.code === 'Tab' ? { name: 'previousObject' } : null;
  }
  const name = plain[stroke.code];
  return name ? ({ name } as ReviewAction) : null;
}

/** The list behind `?`, in the order people learn it. */
export const keyHelp: readonly { readonly title: string; readonly keys: readonly (readonly [string, string])[] }[] = [
  {
    title: 'Decide',
    keys: [
      ['Enter', 'Accept and go on'],
      ['Shift Enter', 'Accept the rest of the image'],
      ['1 – 9', 'Set the class and accept'],
      ['Shift 1 – 9', 'Set the class only'],
      ['Delete', 'Reject'],
      ['Shift Delete', 'Reject the rest of the image'],
      ['U', 'Unsure: send to the end; no part of the rest'],
      ['Ctrl Z', 'Undo'],
      ['Ctrl Shift Z', 'Redo (also Ctrl Y)'],
    ],
  },
  {
    title: 'Move',
    keys: [
      ['Tab', 'Next object (after Esc: next control)'],
      ['Shift Tab', 'Previous object'],
      ['D', 'Next image'],
      ['A', 'Previous image'],
    ],
  },
  {
    title: 'Draw',
    keys: [
      ['E', 'Edit the object'],
      ['N', 'New object'],
      ['B', 'Brush'],
      ['X', 'Eraser'],
      ['P', 'Polygon: click points, Enter closes'],
      ['[ ]', 'Smaller, larger brush'],
      ['Alt', 'Held: subtract'],
      ['Esc', 'Cancel'],
    ],
  },
  {
    title: 'See',
    keys: [
      ['Wheel', 'Zoom at the pointer'],
      ['Space', 'Held: pan (also middle drag)'],
      ['Z', 'Zoom to the object'],
      ['F', 'Fit the image'],
      ['V', 'Held: hide masks'],
      ['O', 'Fill, outline, off'],
      ['Ctrl Wheel', 'Opacity of masks'],
    ],
  },
];
