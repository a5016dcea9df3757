/**
 * Code versions as directories, for Puppet to compile from: `<state>/code/<id>/`, made from the tree manifest and the content
 * store on whatever machine compiles. A directory with that name is complete: it is made beside and renamed. Calls for the same
 * code version share one making. One that an earlier process made is looked over once (names, kinds, sizes, modes) and made
 * anew when it is not what the manifest says.
 */
import { randomBytes } from 'node:crypto';
import { chmod, lstat, mkdir, readdir, readlink, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CodeVersionHash, ContentHash } from '../model/ids.ts';
import { readTree, type TreeEntry, treeHash } from '../model/tree.ts';
import { type StoredContent, writeTreeFiles } from './tree-files.ts';

export interface CodeDirectories {
  /** The absolute path of a code version's directory. Throws CONTENT_NOT_FOUND when the content store lacks a part of it. */
  codeDirectory(codeVersion: CodeVersionHash): Promise<string>;
  /** Removes a directory that nobody compiles from any more; nothing happens when there is none. */
  removeCodeDirectory(codeVersion: CodeVersionHash): Promise<void>;
  /** Code versions that have a directory here. */
  listCodeDirectories(): Promise<CodeVersionHash[]>;
}

export function codeDirectories(deps: { state: string; content: StoredContent }): CodeDirectories {
  const parent = join(deps.state, 'code');
  const making = new Map<CodeVersionHash, Promise<string>>();
  let swept: Promise<void> | undefined;
  /** The one that was last asked for and is there: the next one differs from it in a few files, mostly. */
  let last: { root: string; entries: TreeEntry[] } | undefined;

  async function make(codeVersion: CodeVersionHash): Promise<string> {
    swept ??= sweep(parent);
    await swept;
    const directory = join(parent, codeVersion);
    const manifest = await deps.content.read(codeVersion as string as ContentHash);
    if (treeHash(manifest) !== codeVersion) throw new Error(`the manifest of code version ${codeVersion} is another's`);
    const entries = readTree(manifest);
    if (await isWhole(directory, entries)) {
      last = { root: directory, entries };
      return directory;
    }

    await removeDirectory(directory);
    const beside = join(parent, `.new-${codeVersion}-${randomBytes(6).toString('hex')}`);
    await mkdir(beside, { recursive: true });
    try {
      await writeTreeFiles(beside, entries, {
        content: deps.content,
        modes: 'kept',
        like: last,
      });
      await rename(beside, directory);
      last = { root: directory, entries };
    } catch (error) {
      await removeDirectory(beside);
      if (await isWhole(directory, entries)) return directory; // Another process was first.
      throw error;
    }
    return directory;
  }

  return {
    async codeDirectory(codeVersion) {
      let made = making.get(codeVersion);
      if (!made) {
        made = make(codeVersion);
        making.set(codeVersion, made);
        made.catch(() => making.delete(codeVersion));
      }
      const directory = await made;
      if (await lstat(directory).catch(() => undefined)) return directory;
      if (making.get(codeVersion) === made) making.delete(codeVersion); // Somebody removed it behind our back.
      return this.codeDirectory(codeVersion);
    },
    async removeCodeDirectory(codeVersion) {
      await making.get(codeVersion)?.catch(() => {});
      making.delete(codeVersion);
      await removeDirectory(join(parent, codeVersion));
    },
    async listCodeDirectories() {
      const names = await readdir(parent).catch(() => []);
      return names.filter((name) => /^[0-9a-f]{64}$/.test(name)) as CodeVersionHash[];
    },
  };
}

/** Whether a directory is what the manifest says, as far as names, kinds, sizes and modes tell. */
async function isWhole(directory: string, entries: readonly TreeEntry[]): Promise<boolean> {
  try {
    if (!(await lstat(directory)).isDirectory()) return false;
    const expected = new Map(entries.map((entry) => [entry.path, entry]));
    let met = 0;
    const visit = async (path: string): Promise<boolean> => {
      const names = await readdir(join(directory, path));
      if (names.length === 0 && path !== '' && expected.get(path)?.kind !== 'directory') return false;
      for (const name of names) {
        const below = path === '' ? name : `${path}/${name}`;
        const about = await lstat(join(directory, below));
        const entry = expected.get(below);
        if (about.isDirectory()) {
          if (entry?.kind === 'directory') met += 1;
          if (entry && entry.kind !== 'directory') return false;
          if (!(await visit(below))) return false;
        } else {
          if (!entry || entry.kind === 'directory') return false;
          if (
            entry.kind === 'link' &&
            !(about.isSymbolicLink() && (await readlink(join(directory, below))) === entry.target)
          )
            return false;
          if (entry.kind === 'file') {
            const mode = entry.mode === '755' ? 0o555 : 0o444;
            if (!about.isFile() || about.size !== entry.size || (about.mode & 0o777) !== mode) return false;
          }
          met += 1;
        }
      }
      return true;
    };
    return (await visit('')) && met === expected.size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

/** Out of sight first, then away: a reader sees all of it or nothing. */
async function removeDirectory(directory: string): Promise<void> {
  const aside = join(directory, '..', `.old-${randomBytes(6).toString('hex')}`);
  try {
    await rename(directory, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  await removeAll(aside);
}

/** Its directories are not writable: each is made so before what is in it goes. */
async function removeAll(directory: string): Promise<void> {
  const unlock = async (path: string): Promise<void> => {
    await chmod(path, 0o700);
    for (const item of await readdir(path, { withFileTypes: true })) {
      if (item.isDirectory()) await unlock(join(path, item.name));
    }
  };
  if ((await lstat(directory)).isDirectory()) await unlock(directory);
  await rm(directory, { recursive: true, force: true });
}

/** What killed processes left half made or half removed. Younger ones may still be somebody's. */
const LEFTOVER_AFTER_MS = 3600_000;

async function sweep(parent: string): Promise<void> {
  await mkdir(parent, { recursive: true });
  for (const name of await readdir(parent)) {
    if (!name.startsWith('.new-') && !name.startsWith('.old-')) continue;
    const path = join(parent, name);
    const about = await lstat(path).catch(() => undefined);
    if (about && Date.now() - about.mtimeMs > LEFTOVER_AFTER_MS) await removeAll(path).catch(() => {});
  }
}
