/**
 * Lets Dawn find Chromium's software adapter on Linux machines without a GPU. Dawn reads this when it starts: import it
 * before anything opens a device.
 */
import { existsSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';

/** Where distributions put Chromium. */
const drivers = ['/usr/lib/chromium', '/usr/lib64/chromium-browser', '/opt/google/chrome'].map(
  (folder) => `${folder}/vk_swiftshader_icd.json`,
);

const hasGpu = (): boolean =>
  existsSync('/dev/nvidiactl') || (existsSync('/dev/dri') && readdirSync('/dev/dri').some((name) => name.startsWith('renderD')));

if (process.platform === 'linux') {
  process.env['XDG_RUNTIME_DIR'] ??= tmpdir();
  const driver = drivers.find((file) => existsSync(file));
  if (driver && !process.env['VK_ICD_FILENAMES'] && !process.env['VK_DRIVER_FILES'] && !hasGpu()) process.env['VK_ICD_FILENAMES'] = driver;
}
