/** How masks are shown in review, as a person set it. */
import type { MaskLook } from '../canvas/paint.ts';

export class Display {
  look = $state<MaskLook>('fill');
  opacity = $state(0.42);
  masksHidden = $state(false);
  /** Zoom to every object when it is selected by a key. */
  follow = $state(false);
  /** Brush diameter in CSS pixels. */
  brush = $state(28);
}
