/** Why an image is left out of training, and what is known of copies, as words. */
import type { CurationSummary, LeftOutRow } from '../../../core/contract/index.ts';
import { baseName, plural, whole } from './format.ts';

/** 0.9873 -> "98.7 %"; below 100 % unless it is 1. */
export function percent(share: number): string {
  const text = (100 * share).toFixed(1);
  return share < 1 && text === '100.0' ? '99.9 %' : `${text.replace(/\.0$/, '')} %`;
}

export function leftOutWords({ reason, ofPath }: LeftOutRow): string {
  switch (reason.kind) {
    case 'excluded':
      return `Named by “${reason.line}” to be left out`;
    case 'duplicate':
      return `${reason.exact ? 'The same pixels as' : `${percent(reason.similarity)} like`} ${baseName(ofPath ?? '')}${reason.ofExcluded ? ', which is left out' : ''}`;
    case 'over-share':
      return `Cluster ${reason.cluster + 1} has ${whole(reason.size)} images, its share is ${whole(reason.share)}`;
  }
}

/** "2 images are new or changed, 1 is gone"; empty when up to date. */
export function staleWords({ changed, gone }: CurationSummary): string {
  const parts = [];
  if (changed > 0) parts.push(`${plural(changed, 'image')} ${changed === 1 ? 'is' : 'are'} new or changed`);
  if (gone > 0) parts.push(`${plural(gone, 'image')} ${gone === 1 ? 'is' : 'are'} gone`);
  return parts.join(', ');
}
