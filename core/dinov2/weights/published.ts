/** What Meta published, and how its code calls the networks (facebookresearch/dinov2, hub/backbones.py). Facts only; nothing is fetched. */
import { modelConfig, type ModelConfig, type ModelName } from '../config.ts';
import { vitShapes } from '../vit.ts';

/** Side of the images that the hub's constructors build the position table for. */
export const HUB_IMAGE_SIZE = 518;

export interface PublishedNetwork {
  /** The name of the file without its ending: dinov2_vits14_reg4_pretrain. */
  readonly id: string;
  readonly model: ModelConfig;
  readonly url: string;
  readonly parameters: number;
}

/** The official constructor of a size, and its name in files. */
const SIZES: Partial<Record<ModelConfig['name'], { readonly constructorName: string; readonly short: string }>> = {
  small: { constructorName: 'vit_small', short: 'vits' },
  base: { constructorName: 'vit_base', short: 'vitb' },
  large: { constructorName: 'vit_large', short: 'vitl' },
  giant: { constructorName: 'vit_giant2', short: 'vitg' },
};

/** The name of the constructor in the official vision_transformer.py; null: none builds this network. */
export function officialConstructor({ name, mlpRatio }: ModelConfig): string | null {
  return mlpRatio === 4 ? (SIZES[name]?.constructorName ?? null) : null;
}

/** The hub's function, such as dinov2_vits14_reg; null: none builds this network. */
export function hubFunction(model: ModelConfig): string | null {
  const published = publishedNetworks().find((one) => sameNetwork(one.model, model));
  return published ? published.id.replace('_pretrain', '').replace('_reg4', '_reg') : null;
}

/** A name for a file of this network, in the way of the published ones: dinov2_vits14_reg4. */
export function fileStem(model: ModelConfig): string {
  const size = SIZES[model.name]?.short ?? `vit_${model.name}`;
  return `dinov2_${size}${model.patchSize}${model.registers > 0 ? `_reg${model.registers}` : ''}`;
}

/** Side of the position table that the hub's constructors have; the network's own where no such constructor is. */
export function hubGrid(model: ModelConfig): number {
  return HUB_IMAGE_SIZE % model.patchSize === 0 ? HUB_IMAGE_SIZE / model.patchSize : model.positionGrid;
}

/** The eight backbones, without and with registers (spec 10.1). */
export function publishedNetworks(): PublishedNetwork[] {
  const names: readonly ModelName[] = ['small', 'base', 'large', 'giant'];
  return names.flatMap((name) =>
    [0, 4].map((registers) => {
      const model = modelConfig(name, { registers, positionGrid: HUB_IMAGE_SIZE / 14 });
      const folder = `dinov2_${SIZES[name]!.short}14`;
      const id = `${folder}${registers > 0 ? '_reg4' : ''}_pretrain`;
      const parameters = vitShapes(model).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
      return { id, model, url: `https://dl.fbaipublicfiles.com/dinov2/${folder}/${id}.pth`, parameters };
    }),
  );
}

/** Apart from the position table, which can be resized. */
function sameNetwork(a: ModelConfig, b: ModelConfig): boolean {
  const keys = ['embedDim', 'depth', 'heads', 'mlpRatio', 'ffn', 'patchSize', 'registers'] as const;
  return keys.every((key) => a[key] === b[key]);
}
