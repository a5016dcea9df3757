/** Tree entries made into files of a directory, each file's bytes checked against its hash while they are written. */
import { createHash } from 'node:crypto';
import { chmodSync, linkSync, mkdirSync, symlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import type { ContentHash } from '../model/ids.ts';
import { DEPLOY_FILES_AT_ONCE_MAX } from '../model/limits.ts';
import type { TreeEntry } from '../model/tree.ts';
import { AtMost } from './at-most.ts';
import type { FileEntry } from './folder.ts';

/** What this needs of the content store. */
export interface StoredContent {
  read(hash: ContentHash): Promise<Buffer>;
  get(hash: ContentHash): Promise<{ stream: Readable }>;
}

/** Content up to this is read at once rather than streamed. */
const SMALL_BYTES_MAX = 1024 * 1024;

export interface TreeFilesOptions {
  content: StoredContent;
  /**
   * `kept`: nobody may write (0444, 0555), and every file is as old as 1970, so that a catalog which tells a file's time tells
   * the same on every machine. `private`: for a while, for us only (0600, 0700).
   */
  modes: 'kept' | 'private';
  /** Where the same files lie already with the modes `kept`: they are linked, not written again. */
  like?: { root: string; entries: readonly TreeEntry[] } | undefined;
  signal?: AbortSignal;
}

/** Makes the files of `entries` below `root`, an empty directory that is there. Throws when bytes are not what they should be. */
export async function writeTreeFiles(
  root: string,
  entries: readonly TreeEntry[],
  options: TreeFilesOptions,
): Promise<void> {
  const kept = options.modes === 'kept';
  const directories = new Set<string>();
  for (const entry of entries) {
    const last = entry.kind === 'directory' ? entry.path : dirname(entry.path);
    for (let path = last; path !== '.' && !directories.has(path); path = dirname(path)) directories.add(path);
  }
  // A parent sorts before what it holds.
  const ordered = [...directories].sort();
  await inTurns(ordered, (path) => mkdirSync(join(root, path), { mode: 0o700 }));

  const there = new Map(options.like?.entries.flatMap((entry) => (entry.kind === 'file' ? [[entry.path, entry]] : [])));
  const toWrite: FileEntry[] = [];
  await inTurns(entries, (entry) => {
    options.signal?.throwIfAborted();
    if (entry.kind === 'link') symlinkSync(entry.target, join(root, entry.path));
    if (entry.kind !== 'file') return;
    const same = there.get(entry.path);
    const mayLink = same?.hash === entry.hash && same.mode === entry.mode;
    if (!mayLink || !link(join(options.like!.root, entry.path), join(root, entry.path))) toWrite.push(entry);
  });
  const writes = new AtMost(DEPLOY_FILES_AT_ONCE_MAX);
  for (const entry of toWrite) {
    options.signal?.throwIfAborted();
    await writes.run(() => writeFileChecked(join(root, entry.path), entry, options));
  }
  await writes.all();
  if (!kept) return;
  await inTurns(ordered.reverse(), (path) => chmodSync(join(root, path), 0o555));
  chmodSync(root, 0o555);
}

/** False: it was removed, or has as many links as there can be. */
function link(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch {
    return false;
  }
}

/** A call of these takes some ten microseconds; asked of a thread, ten times that. After about a millisecond others have a turn. */
async function inTurns<Item>(items: readonly Item[], call: (item: Item) => void): Promise<void> {
  for (const [at, item] of items.entries()) {
    call(item);
    if (at % 100 === 99) await new Promise((turn) => setImmediate(turn));
  }
}

async function writeFileChecked(path: string, entry: FileEntry, { content, modes }: TreeFilesOptions): Promise<void> {
  const hash = createHash('sha256');
  const executable = entry.mode === '755';
  const file = await open(path, 'wx', executable ? 0o700 : 0o600);
  try {
    if (entry.size <= SMALL_BYTES_MAX) {
      const bytes = await content.read(entry.hash);
      hash.update(bytes);
      await file.writeFile(bytes);
    } else {
      for await (const bytes of (await content.get(entry.hash)).stream) {
        hash.update(bytes as Buffer);
        await file.writeFile(bytes as Buffer);
      }
    }
    const actual = hash.digest('hex');
    if (actual !== entry.hash) throw new Error(`'${entry.path}' hashes to ${actual}, not to ${entry.hash}`);
    if (modes === 'kept') {
      await file.chmod(executable ? 0o555 : 0o444);
      await file.utimes(0, 0);
    }
  } finally {
    await file.close();
  }
}
