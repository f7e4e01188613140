/** From the resolution in which masks are found to that of the image. */
import type { BoxMask } from './grid.ts';

/**
 * A mask of the working resolution brought to the full image: its edge is interpolated between pixels (bilinear at 0.5),
 * so a smooth outline stays smooth. Equal sizes are returned as they are.
 */
export function enlargeMask(mask: BoxMask, fromWidth: number, fromHeight: number, width: number, height: number): BoxMask {
  if (fromWidth === width && fromHeight === height) return mask;
  const sx = fromWidth / width;
  const sy = fromHeight / height;
  const x0 = Math.max(0, Math.floor((mask.x - 1) / sx));
  const x1 = Math.min(width, Math.ceil((mask.x + mask.width + 1) / sx));
  const y0 = Math.max(0, Math.floor((mask.y - 1) / sy));
  const y1 = Math.min(height, Math.ceil((mask.y + mask.height + 1) / sy));
  const boxWidth = x1 - x0;
  const boxHeight = y1 - y0;
  const data = new Uint8Array(boxWidth * boxHeight);
  // Beyond the image border a mask that touches it goes on: clamp to the border, not to the box.
  const at = (x: number, y: number): number => {
    const cx = Math.min(fromWidth - 1, Math.max(0, x)) - mask.x;
    const cy = Math.min(fromHeight - 1, Math.max(0, y)) - mask.y;
    return cx < 0 || cy < 0 || cx >= mask.width || cy >= mask.height ? 0 : mask.data[cy * mask.width + cx];
  };
  let area = 0;
  for (let y = 0; y < boxHeight; y++) {
    const v = (y0 + y + 0.5) * sy - 0.5;
    const top = Math.floor(v);
    const fy = v - top;
    for (let x = 0; x < boxWidth; x++) {
      const u = (x0 + x + 0.5) * sx - 0.5;
      const left = Math.floor(u);
      const fx = u - left;
      const above = at(left, top) * (1 - fx) + at(left + 1, top) * fx;
      const below = at(left, top + 1) * (1 - fx) + at(left + 1, top + 1) * fx;
      if (above * (1 - fy) + below * fy > 0.5) {
        data[y * boxWidth + x] = 1;
        area++;
      }
    }
  }
  return { x: x0, y: y0, width: boxWidth, height: boxHeight, data, area };
}
