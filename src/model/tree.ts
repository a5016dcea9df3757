/**
 * A tree manifest: the files of a code version, or the plugins that travel with it. Its SHA-256 is the tree's name, and the
 * manifest itself is kept in the content store under that name, beside the files it lists. Format: docs/formats/tree-v1.md.
 */
import { createHash } from 'node:crypto';
import type { ContentHash } from './ids.ts';

export type TreeEntry =
  | { kind: 'file'; path: string; mode: '644' | '755'; hash: ContentHash; size: number }
  | { kind: 'link'; path: string; target: string }
  | { kind: 'directory'; path: string }; // only empty ones are listed

const HEADER = '["callboard tree",1]';

/** The one text of a tree: a header, then a JSON array a line, in byte order of the paths. */
export function writeTree(entries: TreeEntry[]): Buffer {
  const sorted = entries.map((entry) => ({ entry, bytes: Buffer.from(entry.path) }));
  sorted.sort((a, b) => Buffer.compare(a.bytes, b.bytes));
  const lines = sorted.map(({ entry }) => {
    if (entry.kind === 'file') return JSON.stringify(['file', entry.path, entry.mode, entry.hash, entry.size]);
    if (entry.kind === 'link') return JSON.stringify(['link', entry.path, entry.target]);
    return JSON.stringify(['directory', entry.path]);
  });
  return Buffer.from(`${[HEADER, ...lines].join('\n')}\n`);
}

/** The other way; throws on anything but the format, and on a path that leaves the tree. */
export function readTree(manifest: Buffer): TreeEntry[] {
  const lines = manifest.toString('utf8').split('\n');
  if (lines[0] !== HEADER) throw new Error(`not a tree manifest of version 1: ${lines[0]?.slice(0, 100)}`);
  return lines.slice(1, -1).map((line): TreeEntry => {
    const [kind, path, a, hash, size] = JSON.parse(line);
    if (
      typeof path !== 'string' ||
      path.startsWith('/') ||
      path.split('/').some((part) => part === '..' || part === '.' || part === '')
    )
      throw new Error(`a tree manifest names the path ${JSON.stringify(path)}`);
    if (kind === 'file') return { kind, path, mode: a, hash, size };
    if (kind === 'link') return { kind, path, target: a };
    if (kind === 'directory') return { kind, path };
    throw new Error(`a tree manifest has an entry of kind ${JSON.stringify(kind)}`);
  });
}

/** The name of a tree. */
export function treeHash(manifest: Buffer): string {
  return createHash('sha256').update(manifest).digest('hex');
}
