/** Renders icon.svg to the PNG that installers and the window use: node build/icon.ts */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import sharp from 'sharp';

const folder = import.meta.dirname;

/** The icon as PNG bytes, 1024 pixels a side: the largest that any platform asks for. */
export function renderIcon(): Promise<Buffer> {
  return sharp(path.join(folder, 'icon.svg')).resize(1024, 1024).png({ compressionLevel: 9, palette: true }).toBuffer();
}

if (import.meta.main) writeFileSync(path.join(folder, 'icon.png'), await renderIcon());
