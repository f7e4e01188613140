// Front door of the labels room: masks as pixels and as run lengths, outlines, COCO files.
export {
  componentMask,
  connectedComponents,
  countHoles,
  emptyMask,
  fillHoles,
  intersectMask,
  maskArea,
  maskBox,
  maskIou,
  removeSmall,
  subtractMask,
  unionMask,
  type Components,
  type Connectivity,
  type Mask,
} from './masks.ts';
export { decodeRle, encodeRle, rleArea, rleBox, rleFromRuns, rleIou, rleRuns } from './rle.ts';
export { fillRing, outlinePixelEdges, ringArea, type Ring } from './outlines.ts';
export {
  cocoPolygons,
  cocoPreflight,
  readCoco,
  writeCoco,
  type CocoAttributes,
  type CocoCategory,
  type CocoContent,
  type CocoFile,
  type CocoImage,
  type CocoLoss,
  type CocoObject,
  type CocoSegmentation,
  type CocoWritten,
} from './coco.ts';
