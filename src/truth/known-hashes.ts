/**
 * What was hashed before, so that it is not read again: git blobs by their id, which names their bytes for good, and files
 * outside git by a signature of their stat. Both are only hints about bytes: whether the content store has them is asked anew
 * each time. Losing a file here costs one reading of everything.
 */
import { appendFile, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { ContentHash } from '../model/ids.ts';

/** Lines of the blob file after which it is written anew with only what the last deploy used: some 120 bytes each. */
const BLOB_LINES_MAX = 1_000_000;
/** A file changed more recently than this is hashed again next time: a second change may leave the same stat. */
const SETTLED_AFTER_MS = 2000;

export interface Known {
  hash: ContentHash;
  size: number;
}

/** Blobs by id. The file only grows; a torn last line, or any line that is not whole, is skipped. */
export class KnownBlobs {
  readonly #file: string;
  readonly #known = new Map<string, Known>();
  readonly #fresh: string[] = [];
  readonly #used = new Set<string>();
  #lines = 0;

  private constructor(file: string) {
    this.#file = file;
  }

  static async load(file: string): Promise<KnownBlobs> {
    const blobs = new KnownBlobs(file);
    const text = await readFile(file, 'latin1').catch(orEmpty);
    for (const match of text.matchAll(/^([0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{64}) (\d+)$/gm)) {
      blobs.#known.set(match[1]!, { hash: match[2] as ContentHash, size: Number(match[3]) });
      blobs.#lines += 1;
    }
    return blobs;
  }

  get(blob: string): Known | undefined {
    const known = this.#known.get(blob);
    if (known) this.#used.add(blob);
    return known;
  }

  add(blob: string, known: Known): void {
    this.#known.set(blob, known);
    this.#used.add(blob);
    this.#fresh.push(line(blob, known));
  }

  async save(): Promise<void> {
    if (this.#fresh.length === 0) return;
    await mkdir(dirname(this.#file), { recursive: true });
    if (this.#lines + this.#fresh.length > BLOB_LINES_MAX) {
      await replace(this.#file, [...this.#used].map((blob) => line(blob, this.#known.get(blob)!)).join(''));
    } else {
      // A line break first: what a killed writer left of its last line must not swallow ours.
      await appendFile(this.#file, `\n${this.#fresh.join('')}`, { mode: 0o600 });
    }
    this.#lines += this.#fresh.length;
    this.#fresh.length = 0;
  }
}

function line(blob: string, { hash, size }: Known): string {
  return `${blob} ${hash} ${size}\n`;
}

/** What of a file's stat changes when its bytes do. */
export interface Signature {
  size: bigint;
  mtimeNs: bigint;
  ctimeNs: bigint;
  ino: bigint;
  dev: bigint;
}

/** Files by path and stat. Written anew after each walk that changed anything, with only what the walk met. */
export class KnownFiles {
  readonly #file: string;
  readonly #known: Map<string, { signature: string; hash: ContentHash }>;
  readonly #met = new Map<string, { signature: string; hash: ContentHash }>();
  #changed = false;

  private constructor(file: string, known: Map<string, { signature: string; hash: ContentHash }>) {
    this.#file = file;
    this.#known = known;
  }

  static async load(file: string): Promise<KnownFiles> {
    const known = new Map<string, { signature: string; hash: ContentHash }>();
    const text = await readFile(file, 'utf8').catch(orEmpty);
    for (const [, signature, hash, path] of text.matchAll(/^([0-9-]+) ([0-9a-f]{64}) (.+)$/gm)) {
      known.set(path!, { signature: signature!, hash: hash as ContentHash });
    }
    return new KnownFiles(file, known);
  }

  get(path: string, signature: Signature): ContentHash | undefined {
    const known = this.#known.get(path);
    if (known?.signature !== text(signature)) return undefined;
    this.#met.set(path, known);
    return known.hash;
  }

  add(path: string, signature: Signature, hash: ContentHash): void {
    const changedAtMs = Math.max(Number(signature.mtimeNs / 1_000_000n), Number(signature.ctimeNs / 1_000_000n));
    if (Date.now() - changedAtMs < SETTLED_AFTER_MS) return;
    this.#met.set(path, { signature: text(signature), hash });
    this.#changed = true;
  }

  async save(): Promise<void> {
    if (!this.#changed && this.#met.size === this.#known.size) return;
    const lines = [...this.#met].map(([path, { signature, hash }]) => `${signature} ${hash} ${path}\n`);
    await replace(this.#file, lines.join(''));
  }
}

function text({ size, mtimeNs, ctimeNs, ino, dev }: Signature): string {
  return `${size}-${mtimeNs}-${ctimeNs}-${ino}-${dev}`;
}

async function replace(file: string, content: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const beside = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  await writeFile(beside, content, { mode: 0o600 });
  await rename(beside, file);
}

function orEmpty(error: NodeJS.ErrnoException): string {
  if (error.code === 'ENOENT') return '';
  throw error;
}
