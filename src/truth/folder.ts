/**
 * A tree of files held in memory: what a directory made from a tree manifest would look like, asked without making it.
 * Paths are relative, with `/`; the tree's own root is the empty path. Links are followed as a kernel would follow them,
 * with one difference: a step above the root is told, never taken.
 */
import { posix } from 'node:path';
import { CallboardError } from '../model/errors.ts';
import type { TreeEntry } from '../model/tree.ts';

/** Links followed for one path before it counts as a loop; Linux gives up after 40. */
const LINKS_FOLLOWED_MAX = 40;

export type FileEntry = Extract<TreeEntry, { kind: 'file' }>;
interface Directory {
  kind: 'directory';
  children: Map<string, Item>;
}
type Item = Directory | Exclude<TreeEntry, { kind: 'directory' }>;

export type Found =
  /** `path` is the place itself, with every link on the way followed. */
  | { state: 'directory'; path: string }
  | { state: 'file'; path: string; entry: FileEntry }
  | { state: 'absent' | 'outside' | 'loop' };

export class Folder {
  #root: Directory = { kind: 'directory', children: new Map() };

  /** Throws CODE_DEPLOY_FAILED where two entries cannot both be there. */
  constructor(entries: Iterable<TreeEntry>) {
    for (const entry of entries) this.#add(entry);
  }

  #add(entry: TreeEntry): void {
    const parts = entry.path.split('/');
    const name = parts.pop()!;
    let directory = this.#root;
    for (const part of parts) {
      let next = directory.children.get(part);
      if (!next) {
        next = { kind: 'directory', children: new Map() };
        directory.children.set(part, next);
      }
      if (next.kind !== 'directory') throw twice(entry.path);
      directory = next;
    }
    const present = directory.children.get(name);
    if (entry.kind === 'directory') {
      if (!present) directory.children.set(name, { kind: 'directory', children: new Map() });
      else if (present.kind !== 'directory') throw twice(entry.path);
    } else {
      if (present) throw twice(entry.path);
      directory.children.set(name, entry);
    }
  }

  /** Where a path leads. */
  find(path: string): Found {
    const way: { name: string; directory: Directory }[] = [];
    const ahead = path.split('/').reverse();
    let linksFollowed = 0;
    while (ahead.length > 0) {
      const part = ahead.pop()!;
      if (part === '' || part === '.') continue;
      if (part === '..') {
        if (way.length === 0) return { state: 'outside' };
        way.pop();
        continue;
      }
      const item = (way.at(-1)?.directory ?? this.#root).children.get(part);
      if (!item) return { state: 'absent' };
      if (item.kind === 'directory') {
        way.push({ name: part, directory: item });
      } else if (item.kind === 'link') {
        linksFollowed += 1;
        if (linksFollowed > LINKS_FOLLOWED_MAX) return { state: 'loop' };
        if (item.target.startsWith('/')) return { state: 'outside' };
        ahead.push(...item.target.split('/').reverse());
      } else {
        return ahead.length === 0 ? { state: 'file', path: item.path, entry: item } : { state: 'absent' };
      }
    }
    return { state: 'directory', path: way.map((step) => step.name).join('/') };
  }

  /** Names in a directory, in byte order. Empty when there is no such directory. */
  names(path: string): string[] {
    let directory = this.#root;
    for (const part of path.split('/')) {
      if (part === '') continue;
      const next = directory.children.get(part);
      if (next?.kind !== 'directory') return [];
      directory = next;
    }
    return [...directory.children.keys()]
      .map((name) => Buffer.from(name))
      .sort(Buffer.compare)
      .map(String);
  }

  /** Every directory's path, the root left out. */
  directories(): string[] {
    const paths: string[] = [];
    const visit = (directory: Directory, path: string): void => {
      for (const [name, item] of directory.children) {
        if (item.kind !== 'directory') continue;
        const below = posix.join(path, name);
        paths.push(below);
        visit(item, below);
      }
    };
    visit(this.#root, '');
    return paths;
  }
}

/** Links that lead out of their tree, followed as a kernel does or taken by their words alone. */
export function linksOutside(entries: readonly TreeEntry[], folder: Folder): { path: string; target: string }[] {
  return entries.filter((entry) => {
    if (entry.kind !== 'link') return false;
    if (entry.target === '' || entry.target.startsWith('/')) return true;
    const meant = posix.join(posix.dirname(entry.path), entry.target);
    return meant === '..' || meant.startsWith('../') || folder.find(entry.path).state === 'outside';
  }) as Extract<TreeEntry, { kind: 'link' }>[];
}

function twice(path: string): CallboardError {
  return new CallboardError('CODE_DEPLOY_FAILED', { reason: `The code holds '${path}' twice` });
}
