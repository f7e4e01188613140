/** Imported networks: their rows and where they lie; and the rows of networks written for other programs. */
import { join } from 'node:path';
import { AppError, type NetworkExportRow, type NetworkFacts, type NetworkFormat, type WeightsRow } from '../../contract/index.ts';
import type { ModelConfig } from '../../dinov2/index.ts';
import type { Project, Reader, Writer } from '../project.ts';

interface Row {
  id: string;
  file_name: string;
  bytes: number;
  sha256: string;
  checked: number;
  imported_at: string;
  layout: string;
  type: string;
  model: string;
  parameters: number;
  has_dino: number;
  has_ibot: number;
  notes: string;
}

/** What is written of an import; the id and the time come with it. */
export interface NewWeights extends Omit<WeightsRow, 'id' | 'importedAt' | 'network'> {
  readonly model: ModelConfig;
  readonly parameters: number;
}

export const weightsIdOf = (sha256: string): string => sha256.slice(0, 16);

/** The folder of all of them; each has one of its own, named by its id. */
export const weightsFolder = (project: Project): string => join(project.dir, 'weights');
const fileName = 'weights.safetensors';
export const weightsFileIn = (dir: string): string => join(dir, fileName);

/** Newest first. */
export function weightsRows(reader: Reader): WeightsRow[] {
  return reader.all<Row>('SELECT * FROM weights ORDER BY imported_at DESC, id').map(toWeights);
}

/** @throws AppError weights-not-found */
export function weightsRow(reader: Reader, id: string): WeightsRow {
  const row = findWeights(reader, id);
  if (!row)
    throw new AppError(
      'weights-not-found',
      `There are no imported weights "${id}" in this project.`,
      'Choose others, or import them again.',
    );
  return row;
}

export function findWeights(reader: Reader, id: string): WeightsRow | null {
  const row = reader.get<Row>('SELECT * FROM weights WHERE id = ?', id);
  return row ? toWeights(row) : null;
}

/** The kept file. Only for ids that are in the database. @throws AppError weights-not-found */
export function weightsFile(project: Project, id: string): string {
  return weightsFileIn(join(weightsFolder(project), weightsRow(project, id).id));
}

export function addWeights(writer: Writer, weights: NewWeights): string {
  const id = weightsIdOf(weights.sha256);
  const { fileName: name, bytes, sha256, checked, layout, type, model, parameters, heads, notes } = weights;
  writer.run(
    `INSERT INTO weights (id, file_name, bytes, sha256, checked, imported_at, layout, type, model, parameters, has_dino, has_ibot, notes)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ...[id, name, bytes, sha256, Number(checked), new Date().toISOString(), layout, type, JSON.stringify(model), parameters],
    ...[Number(heads.includes('dino')), Number(heads.includes('ibot')), notes.join('\n')],
  );
  return id;
}

/** Imported again, this time with its SHA-256 known. */
export function setChecked(writer: Writer, id: string): void {
  writer.run('UPDATE weights SET checked = 1 WHERE id = ?', id);
}

export function deleteWeights(writer: Writer, id: string): void {
  writer.run('DELETE FROM weights WHERE id = ?', id);
}

function toWeights(row: Row): WeightsRow {
  return {
    id: row.id,
    fileName: row.file_name,
    bytes: row.bytes,
    sha256: row.sha256,
    checked: row.checked === 1,
    importedAt: row.imported_at,
    layout: row.layout,
    type: row.type,
    network: networkFacts(JSON.parse(row.model) as ModelConfig, row.parameters),
    heads: [...(row.has_dino ? (['dino'] as const) : []), ...(row.has_ibot ? (['ibot'] as const) : [])],
    notes: lines(row.notes),
  };
}

export function networkFacts(model: ModelConfig, parameters: number): NetworkFacts {
  const { name, embedDim, depth, patchSize, registers, positionGrid } = model;
  return { name, embedDim, depth, patchSize, registers, positionGrid, parameters };
}

const lines = (text: string): string[] => (text === '' ? [] : text.split('\n'));

// --- exports of networks ----------------------------------------------------------------------------------------------

/** Newest first. */
export function networkExportRows(project: Project): NetworkExportRow[] {
  return project
    .all<{ id: string; createdAt: string; format: NetworkFormat; source: string; bytes: number; files: string }>(
      'SELECT id, created_at AS createdAt, format, source, bytes, files FROM network_exports ORDER BY created_at DESC, id DESC',
    )
    .map((row) => ({ ...row, files: lines(row.files), location: join(project.dir, 'exports', row.id) }));
}

export function addNetworkExport(writer: Writer, row: Omit<NetworkExportRow, 'location'>): void {
  writer.run(
    'INSERT INTO network_exports (id, created_at, format, source, bytes, files) VALUES (?, ?, ?, ?, ?, ?)',
    row.id,
    row.createdAt,
    row.format,
    row.source,
    row.bytes,
    row.files.join('\n'),
  );
}
