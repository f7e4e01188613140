/** Training runs: their rows, and what lies in runs/<id>/ (checkpoints, metrics, monitors, probe, PCA pictures). */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  AppError,
  type ErrorFacts,
  type MonitorLine,
  type PcaStep,
  type ProbeReport,
  type RunRow,
  type TrainMetrics,
  type TrainMonitors,
} from '../../contract/index.ts';
import type { RunConfig } from '../../dinov2/index.ts';
import { alarmsOf, chosenCheckpoint, parseMonitors } from '../../monitor/index.ts';
import type { Project, Reader, Writer } from '../project.ts';
import { imageIdOf } from './images.ts';

interface Row {
  id: string;
  preset_title: string;
  model: string;
  started_at: string;
  state: RunRow['state'];
  step: number;
  total_steps: number;
  error_code: ErrorFacts['code'] | null;
  error_message: string | null;
  error_action: string | null;
}

/** The run's folder. Only for ids that are in the database: an id never becomes part of a path before it was found there. */
export function runDir(project: Project, runId: string): string {
  return join(project.dir, 'runs', runRow(project, runId).id);
}

/** Newest first. */
export function runRows(project: Project): RunRow[] {
  return project.all<Row>('SELECT * FROM runs ORDER BY started_at DESC, id DESC').map((row) => toRun(project, row));
}

/** @throws AppError run-not-found */
export function runRow(project: Project, runId: string): RunRow {
  const row = project.get<Row>('SELECT * FROM runs WHERE id = ?', runId);
  if (!row) throw new AppError('run-not-found', `There is no training run "${runId}" in this project.`, 'Choose one of the list.');
  return toRun(project, row);
}

export function latestRunId(reader: Reader): string | null {
  return reader.get<{ id: string }>('SELECT id FROM runs ORDER BY started_at DESC, id DESC LIMIT 1')?.id ?? null;
}

function toRun(project: Project, row: Row): RunRow {
  const dir = join(project.dir, 'runs', row.id);
  const steps = checkpoints(dir);
  const { startedFrom, taughtBy } = sourcesOf(dir);
  const error = row.error_code && { code: row.error_code, message: row.error_message ?? '', action: row.error_action ?? '' };
  return {
    id: row.id,
    presetTitle: row.preset_title,
    model: row.model,
    startedAt: row.started_at,
    state: row.state,
    step: row.step,
    totalSteps: row.total_steps,
    checkpoints: steps,
    chosen: chosenCheckpoint(steps, monitorLines(dir), startedFrom !== null),
    startedFrom,
    taughtBy,
    error: error || null,
  };
}

/** What a run started from and learns from, in words; null: random weights and itself, or its numbers are not written yet. */
function sourcesOf(dir: string): Pick<RunRow, 'startedFrom' | 'taughtBy'> {
  const text = ifThere(() => readFileSync(join(dir, 'config.json'), 'utf8'));
  try {
    const config = JSON.parse(text ?? '{}') as Partial<RunConfig>;
    return {
      startedFrom: config.start === 'weights' ? (config.startedFrom ?? 'weights') : null,
      taughtBy: config.distillation?.taughtBy ?? null,
    };
  } catch {
    return { startedFrom: null, taughtBy: null }; // a damaged file is told when the run is resumed
  }
}

/** Steps with a checkpoint on disk, ascending: checkpoints/<step>/ exists only when complete (written under another name first). */
function checkpoints(dir: string): number[] {
  return entries(join(dir, 'checkpoints'))
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
}

/** Adds a run in state 'running' under the next free id ("1", "2", ...). */
export function addRun(writer: Writer, facts: { presetTitle: string; model: string; totalSteps: number }): string {
  const id = String(writer.get<{ n: number }>('SELECT coalesce(max(CAST(id AS INTEGER)), 0) + 1 AS n FROM runs')!.n);
  writer.run(
    "INSERT INTO runs (id, preset_title, model, started_at, state, step, total_steps) VALUES (?, ?, ?, ?, 'running', 0, ?)",
    id,
    facts.presetTitle,
    facts.model,
    new Date().toISOString(),
    facts.totalSteps,
  );
  return id;
}

export function setRunState(writer: Writer, runId: string, state: RunRow['state'], error: ErrorFacts | null): void {
  writer.run(
    'UPDATE runs SET state = ?, error_code = ?, error_message = ?, error_action = ? WHERE id = ?',
    state,
    error?.code ?? null,
    error?.message ?? null,
    error?.action ?? null,
    runId,
  );
}

export function setRunStep(writer: Writer, runId: string, step: number, totalSteps: number): void {
  writer.run('UPDATE runs SET step = ?, total_steps = ? WHERE id = ?', step, totalSteps, runId);
}

/** Lines of metrics.jsonl after a step, ascending; of a step that was run again after a crash, the newest line. */
export function trainMetrics(dir: string, afterStep: number): TrainMetrics[] {
  const byStep = new Map<number, TrainMetrics>();
  for (const line of lines(join(dir, 'metrics.jsonl'))) {
    let metrics: TrainMetrics;
    try {
      metrics = JSON.parse(line) as TrainMetrics;
    } catch {
      continue; // the last line, while it is being written or after a kill
    }
    if (metrics.step > afterStep) byStep.set(metrics.step, metrics);
  }
  return [...byStep.values()].sort((a, b) => a.step - b.step);
}

/**
 * What was measured without labels at each checkpoint, and what of it is alarming.
 * @param over the run is not going on
 */
export function trainMonitors(dir: string, over: boolean): TrainMonitors {
  const lines = monitorLines(dir);
  return { lines, alarms: alarmsOf(lines, over) };
}

function monitorLines(dir: string): MonitorLine[] {
  return parseMonitors(ifThere(() => readFileSync(join(dir, 'monitors.jsonl'), 'utf8')) ?? '');
}

/** The last comparison with masks; null when there was none. */
export function trainProbe(dir: string): ProbeReport | null {
  const text = ifThere(() => readFileSync(join(dir, 'probe.json'), 'utf8'));
  return text === null ? null : (JSON.parse(text) as ProbeReport);
}

export function savePca(writer: Writer, runId: string, event: { step: number; imagePaths: readonly string[]; explained: number }): void {
  writer.run('DELETE FROM pca_pictures WHERE run_id = ? AND step = ?', runId, event.step);
  writer.run('INSERT OR REPLACE INTO pca_steps (run_id, step, explained) VALUES (?, ?, ?)', runId, event.step, event.explained);
  event.imagePaths.forEach((path, position) => {
    const imageId = imageIdOf(writer, path);
    if (imageId !== undefined)
      writer.run('INSERT INTO pca_pictures (run_id, step, position, image_id) VALUES (?, ?, ?, ?)', runId, event.step, position, imageId);
  });
}

export function pcaSteps(reader: Reader, runId: string): PcaStep[] {
  return reader
    .all<{ step: number; explained: number }>('SELECT step, explained FROM pca_steps WHERE run_id = ? ORDER BY step', runId)
    .map(({ step, explained }) => ({
      step,
      explained,
      pictures: reader
        .all<{ position: number; imageId: number }>(
          'SELECT position, image_id AS imageId FROM pca_pictures WHERE run_id = ? AND step = ? ORDER BY position',
          runId,
          step,
        )
        .map(({ position, imageId }) => ({ imageId, url: `/files/pca/${runId}/${step}/${position}` })),
    }));
}

function entries(dir: string): string[] {
  return ifThere(() => readdirSync(dir)) ?? [];
}

function lines(file: string): string[] {
  return (ifThere(() => readFileSync(file, 'utf8')) ?? '').split('\n').filter((line) => line !== '');
}

function ifThere<T>(read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
