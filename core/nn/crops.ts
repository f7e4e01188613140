/** Crops of 8-bit pictures as plain numbers: what is drawn where randomness is, and done where pixels are. */

/** 8-bit RGB pixels. */
export interface PixelImage {
  readonly width: number;
  readonly height: number;
  /** [H,W,3] */
  readonly data: Uint8Array;
}

/** Whole pixels; lies inside its image. */
export interface CropBox {
  readonly top: number;
  readonly left: number;
  readonly width: number;
  readonly height: number;
}

/** One crop: the box resized to a square, then what happens to its colours, in this order (spec 2.2). */
export interface CropDraw {
  readonly box: CropBox;
  /** Mirrored left to right. */
  readonly flip: boolean;
  /**
   * Factors of 1 change nothing; `hue` is a share of the circle. `order` holds 0 brightness, 1 contrast, 2 saturation,
   * 3 hue; null leaves the colours alone.
   */
  readonly jitter: {
    readonly order: Int32Array;
    readonly brightness: number;
    readonly contrast: number;
    readonly saturation: number;
    readonly hue: number;
  } | null;
  readonly grayscale: boolean;
  /** Pixels; 0 is no blur. */
  readonly blurSigma: number;
  readonly solarize: boolean;
}

/** Crops of one size. */
export interface CropGroup {
  /** Side of each crop in pixels. */
  readonly size: number;
  /** Each of the picture of that number. */
  readonly crops: readonly { readonly picture: number; readonly draw: CropDraw }[];
}
