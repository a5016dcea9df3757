/** Code versions as directories, each made from the one before: what is equal is the same file. */
import { chmod, mkdir, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import type { CodeFile } from './world.ts';

/** Directories that are kept; the oldest go. */
const KEPT_MAX = 6;

export class CodeDirectories {
  readonly #root: string;
  readonly #laid = new Map<string, ReadonlyMap<string, CodeFile>>();

  constructor(root: string) {
    this.#root = root;
  }

  /** A directory that holds the code as `production`. */
  environmentPath(version: string): string {
    return join(this.#root, version);
  }

  directory(version: string): string {
    return join(this.#root, version, 'production');
  }

  async lay(version: string, files: ReadonlyMap<string, CodeFile>): Promise<void> {
    if (this.#laid.has(version)) return;
    const target = this.directory(version);
    const like = [...this.#laid].at(-1);
    if (like) await execa('cp', ['-al', this.environmentPath(like[0]), this.environmentPath(version)]);
    await mkdir(target, { recursive: true });
    const before = like?.[1] ?? new Map<string, CodeFile>();
    for (const [path, file] of before) if (!same(file, files.get(path))) await remove(target, path);
    for (const [path, file] of files) if (!same(file, before.get(path))) await write(join(target, path), file);
    this.#laid.set(version, files);
    for (const old of [...this.#laid.keys()].slice(0, -KEPT_MAX)) {
      this.#laid.delete(old);
      await rm(this.environmentPath(old), { recursive: true });
    }
  }
}

function same(one: CodeFile | undefined, other: CodeFile | undefined): boolean {
  if (!one || !other) return one === other;
  if ('link' in one || 'link' in other) return 'link' in one && 'link' in other && one.link === other.link;
  return one.hash === other.hash && one.mode === other.mode;
}

/** Code versions list no directories but for what is in them. */
async function remove(root: string, path: string): Promise<void> {
  await rm(join(root, path));
  for (let above = dirname(path); above !== '.'; above = dirname(above))
    if (
      !(await rmdir(join(root, above)).then(
        () => true,
        () => false,
      ))
    )
      return;
}

async function write(path: string, file: CodeFile): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  if ('link' in file) return symlink(file.link, path);
  await writeFile(path, file.bytes);
  await chmod(path, file.mode === '755' ? 0o755 : 0o644);
}
