/**
 * The events of runs, on disk until the control plane has them: one file a run, one event a line, line number = sequence number.
 *
 * Writers take turns and never overlap: the daemon writes `start`; the run's own process writes what happens, so that nothing
 * is lost with the daemon; after that process is gone, the daemon writes `end` if it is missing. A crash can leave a torn last
 * line at most, which is cut off before anything is added.
 *
 * What is on the disk for sure, and when: bytes are synced (fdatasync) *before* they are sent. So the disk has everything that
 * the control plane has seen, and a sequence number is never given twice, not even over a power cut. Events that were not sent
 * yet are synced once a second and at the end of the run; a power cut may lose the last second of a run that nobody has
 * seen. A sync an event would cost some 10 ms each on a spinning disk and make every run slower for that second.
 */
import { closeSync, fdatasync, openSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { RunId } from '../model/ids.ts';
import { EVENTS_BATCH_BYTES_MAX } from '../model/limits.ts';
import { replaceFile, syncDirectory } from './files.ts';
import { planBound, shrinkRun } from './spool-bound.ts';

const NAME = /^([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.ndjson$/;
const NEWLINE = 0x0a;
const sync = promisify(fdatasync);

export interface SpooledRun {
  readonly id: RunId;
  readonly path: string;
  /** Bytes of whole lines, as far as we were told. */
  bytes: number;
  /** Bytes that are on the disk for sure. */
  synced: number;
  /** Bytes that the control plane has acknowledged, and the sequence of their last event. */
  acknowledged: number;
  acknowledgedSequence: number;
  complete: boolean;
  sent: boolean;
}

export interface Dropped {
  run: RunId;
  how: 'shrunk' | 'dropped';
  bytes: number;
}

export class Spool {
  readonly #directory: string;
  readonly #bytesMax: number;
  readonly #runs = new Map<RunId, SpooledRun>();

  constructor(directory: string, bytesMax: number) {
    this.#directory = directory;
    this.#bytesMax = bytesMax;
  }

  path(run: RunId): string {
    return join(this.#directory, `${run}.ndjson`);
  }

  /** Reads what an earlier daemon left. Runs without an end are returned: their process may still be writing. */
  async open(): Promise<RunId[]> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const names = await readdir(this.#directory);
    const unfinished: RunId[] = [];
    for (const name of names.sort()) {
      if (name.endsWith('.part')) await rm(join(this.#directory, name));
      const id = NAME.exec(name)?.[1] as RunId | undefined;
      if (!id) continue;
      const path = this.path(id);
      const { lines, bytes } = await wholeLines(path);
      const complete = lines > 0 && isEnd(await lastLine(path, bytes));
      if (lines === 0) {
        // Its start was never whole: the run did not begin.
        await this.#remove({ id, path });
        continue;
      }
      if (!complete) unfinished.push(id);
      const sent = names.includes(`${id}.sent`);
      const run = { id, path, bytes, synced: 0, acknowledged: 0, acknowledgedSequence: 0, complete, sent };
      this.#runs.set(id, run);
    }
    return unfinished;
  }

  /** The operator's requests that runs in the spool have taken up: the control plane may not know yet. */
  async requests(): Promise<string[]> {
    const requests: string[] = [];
    for (const run of this.#runs.values()) {
      const start = JSON.parse(await firstLine(run.path));
      if (start.data.request) requests.push(start.data.request);
    }
    return requests;
  }

  /** Writes a run's `start` event, for sure. */
  async begin(id: RunId, at: Date, data: Record<string, unknown>): Promise<SpooledRun> {
    const path = this.path(id);
    const line = Buffer.from(`${JSON.stringify({ sequence: 1, at: at.toISOString(), kind: 'start', data })}\n`);
    await replaceFile(path, line);
    const run: SpooledRun = {
      id,
      path,
      bytes: line.length,
      synced: line.length,
      acknowledged: 0,
      acknowledgedSequence: 0,
      complete: false,
      sent: false,
    };
    this.#runs.set(id, run);
    return run;
  }

  /** Told by the run's process: its file has this many bytes now. */
  grown(id: RunId, bytes: number): void {
    const run = this.#runs.get(id);
    if (run && !run.complete) run.bytes = Math.max(run.bytes, bytes);
  }

  /**
   * Closes a run whose process is gone: cuts a torn line off, and adds an `end` when there is none. Resolves to the end's data,
   * the run's own or the given one.
   */
  async finish(id: RunId, at: Date, end: Record<string, unknown>): Promise<Record<string, unknown>> {
    const run = this.#runs.get(id);
    if (!run) return end;
    const { lines, bytes } = await wholeLines(run.path);
    if ((await stat(run.path)).size !== bytes) await truncate(run.path, bytes);
    run.bytes = bytes;
    let data = end;
    const last = await lastLine(run.path, bytes);
    if (isEnd(last)) data = JSON.parse(last).data;
    else {
      const line = Buffer.from(
        `${JSON.stringify({ sequence: lines + 1, at: at.toISOString(), kind: 'end', data: end })}\n`,
      );
      await writeFile(run.path, line, { flag: 'a' });
      run.bytes += line.length;
    }
    await this.sync(run);
    run.complete = true;
    if (run.acknowledged >= run.bytes) await this.#remove(run);
    return data;
  }

  /** Keeps the spool within its bound; says what that cost. */
  async bound(): Promise<Dropped[]> {
    const sizes = this.#ordered().map(({ id, bytes, complete, sent }) => ({ id, bytes, complete, sent }));
    const plan = planBound(sizes, this.#bytesMax);
    const dropped: Dropped[] = [];
    for (const id of plan.shrink) {
      const run = this.#runs.get(id as RunId);
      // It may have been delivered, or its sending begun, while we were at the others.
      if (!run || run.sent) continue;
      const lines = (await readFile(run.path, 'utf8')).split('\n').slice(0, -1);
      if (run.sent) continue;
      const text = `${shrinkRun(lines).join('\n')}\n`;
      const before = run.bytes;
      await replaceFile(run.path, text);
      run.bytes = run.synced = Buffer.byteLength(text);
      dropped.push({ run: run.id, how: 'shrunk', bytes: before - run.bytes });
    }
    for (const id of plan.drop) {
      const run = this.#runs.get(id as RunId);
      if (!run) continue;
      await this.#remove(run);
      dropped.push({ run: run.id, how: 'dropped', bytes: run.bytes });
    }
    return dropped;
  }

  /** The oldest run that has something the control plane lacks. */
  oldest(): SpooledRun | undefined {
    return this.#ordered().find((run) => run.acknowledged < run.bytes);
  }

  /** The next events of a run to send, as whole lines; they are on the disk when this resolves. */
  async batch(run: SpooledRun, bytesMax = EVENTS_BATCH_BYTES_MAX): Promise<{ lines: Buffer; last: number }> {
    if (!run.sent) {
      run.sent = true;
      await writeFile(join(this.#directory, `${run.id}.sent`), '');
    }
    if (run.synced < run.bytes) await this.sync(run);
    const file = await open(run.path, 'r');
    try {
      let size = Math.min(run.bytes - run.acknowledged, bytesMax);
      for (;;) {
        const buffer = Buffer.alloc(size);
        const { bytesRead } = await file.read(buffer, 0, size, run.acknowledged);
        const end = buffer.lastIndexOf(NEWLINE, bytesRead - 1);
        if (end >= 0) {
          const lines = buffer.subarray(0, end + 1);
          return { lines, last: run.acknowledgedSequence + count(lines) };
        }
        if (bytesRead < size || size >= run.bytes - run.acknowledged) return { lines: Buffer.alloc(0), last: 0 };
        size = Math.min(run.bytes - run.acknowledged, size * 2); // one event larger than a batch
      }
    } finally {
      await file.close();
    }
  }

  /**
   * The control plane has all events of the run up to this one; it may know more than this daemon has sent, from before a
   * restart. A complete run that it has whole is removed.
   */
  async acknowledge(run: SpooledRun, sequence: number): Promise<void> {
    if (!this.#runs.has(run.id)) return;
    if (sequence > run.acknowledgedSequence) {
      const skipped = await skipLines(run.path, run.acknowledged, run.bytes, sequence - run.acknowledgedSequence);
      run.acknowledged += skipped.bytes;
      run.acknowledgedSequence += skipped.lines;
    }
    if (run.complete && run.acknowledged >= run.bytes) await this.#remove(run);
  }

  /** Puts a run aside that the control plane will never take. Its file stays for people to look at, outside the queue. */
  async refuse(run: SpooledRun): Promise<void> {
    this.#runs.delete(run.id);
    await rm(run.path.replace(/\.ndjson$/, '.sent'), { force: true });
    await replaceFile(join(this.#directory, 'refused.ndjson'), await readFile(run.path));
    await rm(run.path, { force: true });
  }

  async sync(run: SpooledRun): Promise<void> {
    const { bytes } = run;
    const fd = openSync(run.path, 'r');
    try {
      await sync(fd);
    } finally {
      closeSync(fd);
    }
    run.synced = Math.max(run.synced, bytes);
  }

  /** Syncs what is not on the disk for sure yet. */
  async syncAll(): Promise<void> {
    for (const run of this.#runs.values()) if (run.synced < run.bytes) await this.sync(run);
  }

  get bytes(): number {
    return this.#ordered().reduce((sum, run) => sum + run.bytes, 0);
  }

  get size(): number {
    return this.#runs.size;
  }

  /** Run ids sort by time. */
  #ordered(): SpooledRun[] {
    return [...this.#runs.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  async #remove(run: { id: RunId; path: string }): Promise<void> {
    this.#runs.delete(run.id);
    await rm(run.path, { force: true });
    await rm(run.path.replace(/\.ndjson$/, '.sent'), { force: true });
    await rm(`${run.path}.pid`, { force: true });
    await syncDirectory(this.#directory);
  }
}

function isEnd(line: string): boolean {
  return /^\{"sequence":\d+,"at":"[^"]*","kind":"end"/.test(line);
}

function count(lines: Buffer): number {
  let found = 0;
  for (let at = lines.indexOf(NEWLINE); at >= 0; at = lines.indexOf(NEWLINE, at + 1)) found++;
  return found;
}

/** A `start` event, which is some hundred bytes. */
async function firstLine(path: string): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(64 * 1024), 0, 64 * 1024, 0);
    return buffer.toString('utf8', 0, Math.max(buffer.subarray(0, bytesRead).indexOf(NEWLINE), 0));
  } finally {
    await file.close();
  }
}

/** How many whole lines a file has, and their bytes. */
async function wholeLines(path: string): Promise<{ lines: number; bytes: number }> {
  return skipLines(path, 0, (await stat(path)).size, Number.POSITIVE_INFINITY);
}

async function lastLine(path: string, bytes: number): Promise<string> {
  const file = await open(path, 'r');
  try {
    let size = Math.min(bytes, 64 * 1024);
    for (;;) {
      const buffer = Buffer.alloc(size);
      await file.read(buffer, 0, size, bytes - size);
      const start = size > 1 ? buffer.lastIndexOf(NEWLINE, size - 2) : -1;
      if (start >= 0 || size === bytes) return buffer.toString('utf8', start + 1, Math.max(size - 1, 0));
      size = Math.min(bytes, size * 4);
    }
  } finally {
    await file.close();
  }
}

/** Walks over at most `max` whole lines between two places of a file. */
async function skipLines(
  path: string,
  from: number,
  to: number,
  max: number,
): Promise<{ lines: number; bytes: number }> {
  const file = await open(path, 'r');
  try {
    const buffer = Buffer.alloc(256 * 1024);
    let at = from;
    let end = from;
    let lines = 0;
    while (at < to && lines < max) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, to - at), at);
      if (bytesRead === 0) break;
      const chunk = buffer.subarray(0, bytesRead);
      for (let found = chunk.indexOf(NEWLINE); found >= 0 && lines < max; found = chunk.indexOf(NEWLINE, found + 1)) {
        lines++;
        end = at + found + 1;
      }
      at += bytesRead;
    }
    return { lines, bytes: end - from };
  } finally {
    await file.close();
  }
}
