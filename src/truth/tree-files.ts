/** Tree entries made into files of a directory, each file's bytes checked against its hash while they are written. */
import { createHash } from 'node:crypto';
import { chmod, link, mkdir, open, symlink } from 'node:fs/promises';
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
  const ordered = [...directories].sort();
  for (const path of ordered) await mkdir(join(root, path), { mode: 0o700 }); // A parent sorts before what it holds.

  const there = new Map(options.like?.entries.flatMap((entry) => (entry.kind === 'file' ? [[entry.path, entry]] : [])));
  const make = async (entry: FileEntry): Promise<void> => {
    const path = join(root, entry.path);
    const same = there.get(entry.path);
    const linked =
      same?.hash === entry.hash &&
      same.mode === entry.mode &&
      (await link(join(options.like!.root, entry.path), path).then(
        () => true,
        () => false, // It was removed, or has as many links as there can be.
      ));
    if (!linked) await writeFileChecked(path, entry, options);
  };
  const writes = new AtMost(DEPLOY_FILES_AT_ONCE_MAX);
  for (const entry of entries) {
    options.signal?.throwIfAborted();
    if (entry.kind === 'file') await writes.run(() => make(entry));
    else if (entry.kind === 'link') await symlink(entry.target, join(root, entry.path));
  }
  await writes.all();
  if (!kept) return;
  for (const path of ordered.reverse()) await chmod(join(root, path), 0o555);
  await chmod(root, 0o555);
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
