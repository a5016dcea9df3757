/**
 * Plugin trees: every module's lib, facts.d and locales of one code version, laid out as Puppet wants them. A tree lies under
 * the hash of its manifest and is complete or absent: it is built beside and renamed. Files are hard links to local content
 * where their mode allows, so a tree that shares most files with its predecessor costs almost nothing.
 */
import { randomBytes } from 'node:crypto';
import { chmod, copyFile, link, mkdir, readdir, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ContentHash } from '../model/ids.ts';
import { readTree, type TreeEntry } from '../model/tree.ts';
import type { LocalContent } from './content.ts';
import { syncDirectory } from './files.ts';

export class PluginTrees {
  readonly #directory: string;
  readonly #content: LocalContent;

  constructor(directory: string, content: LocalContent) {
    this.#directory = directory;
    this.#content = content;
  }

  path(tree: ContentHash): string {
    return join(this.#directory, tree);
  }

  /** Makes the tree be there, fetching only the files that are lacking. */
  async ensure(tree: ContentHash): Promise<{ path: string; files: number; bytes: number }> {
    const path = this.path(tree);
    if (await stat(path).catch(() => null)) return { path, files: 0, bytes: 0 };
    await this.#content.ensure([tree]);
    const entries = readTree(await this.#content.read(tree));
    const fetched = await this.#content.ensure(entries.flatMap((entry) => (entry.kind === 'file' ? [entry.hash] : [])));
    const beside = `${path}.${randomBytes(6).toString('hex')}.part`;
    try {
      await mkdir(beside, { recursive: true });
      for (const entry of entries) await this.#place(beside, entry);
      await rename(beside, path);
    } catch (error) {
      await rm(beside, { recursive: true, force: true });
      // Somebody else was faster, and a tree with this name is the same tree.
      if (!(await stat(path).catch(() => null))) throw error;
    }
    await syncDirectory(this.#directory);
    return { path, ...fetched };
  }

  /** What a tree needs of the content directory: its files and its manifest. Empty when the tree is not known here. */
  async contents(tree: ContentHash): Promise<ContentHash[]> {
    const manifest = await this.#content.read(tree).catch(() => null);
    if (!manifest) return [];
    return [tree, ...readTree(manifest).flatMap((entry) => (entry.kind === 'file' ? [entry.hash] : []))];
  }

  /** Removes every tree but `keep`, and what a crash left half built. */
  async collect(keep: Set<string>): Promise<void> {
    for (const name of await readdir(this.#directory)) {
      if (!keep.has(name)) await rm(join(this.#directory, name), { recursive: true, force: true });
    }
  }

  async #place(root: string, entry: TreeEntry): Promise<void> {
    const path = join(root, entry.path);
    await mkdir(entry.kind === 'directory' ? path : dirname(path), { recursive: true });
    if (entry.kind === 'link') await symlink(entry.target, path);
    else if (entry.kind === 'file') {
      // A hard link shares its mode with the content file: executables need a copy.
      if (
        entry.mode === '644' &&
        (await link(this.#content.path(entry.hash), path).then(
          () => true,
          () => false,
        ))
      )
        return;
      await copyFile(this.#content.path(entry.hash), path);
      await chmod(path, Number.parseInt(entry.mode, 8));
    }
  }
}
