/**
 * An adapter for tests, or the reason why there is none. Linux machines without a GPU use the software adapter that
 * Chromium brings, which Dawn must be told of before it starts: import this before anything opens a device.
 */
import { existsSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describeAdapter, dawnLibrary } from '../../core/nn/webgpu/device.ts';

/** Where distributions put Chromium. */
const softwareDrivers = ['/usr/lib/chromium', '/usr/lib64/chromium-browser', '/opt/google/chrome'].map(
  (folder) => `${folder}/vk_swiftshader_icd.json`,
);

function hasGpuDevice(): boolean {
  try {
    return readdirSync('/dev/dri').some((name) => name.startsWith('renderD')) || existsSync('/dev/nvidiactl');
  } catch {
    return existsSync('/dev/nvidiactl');
  }
}

if (process.platform === 'linux') {
  process.env['XDG_RUNTIME_DIR'] ??= tmpdir();
  const software = softwareDrivers.find((file) => existsSync(file));
  if (software && !process.env['VK_ICD_FILENAMES'] && !process.env['VK_DRIVER_FILES'] && !hasGpuDevice())
    process.env['VK_ICD_FILENAMES'] = software;
}

async function reason(): Promise<string | false> {
  if (!dawnLibrary()) return `there is no WebGPU library for ${process.platform} on ${process.arch}`;
  try {
    await describeAdapter();
    return false;
  } catch (error) {
    return (error as Error).message;
  }
}

/** For node:test's `skip`: the reason when there is no adapter. */
export const noAdapter: string | false = await reason();
