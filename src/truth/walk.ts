/**
 * Directories outside git, read into tree entries: the server's own modules, and what r10k installed. Files are hashed while
 * they stream. Special files are refused; what version control keeps for itself is left out.
 */
import { createHash } from 'node:crypto';
import { type BigIntStats, createReadStream, lstatSync, readdirSync } from 'node:fs';
import { readFile, readlink, realpath, stat } from 'node:fs/promises';
import { dirname, join, posix } from 'node:path';
import { CallboardError } from '../model/errors.ts';
import type { ContentHash } from '../model/ids.ts';
import { DEPLOY_FILE_IN_MEMORY_BYTES_MAX, DEPLOY_FILES_AT_ONCE_MAX, TREE_ENTRIES_MAX } from '../model/limits.ts';
import type { TreeEntry } from '../model/tree.ts';
import { AtMost } from './at-most.ts';
import type { Signature } from './known-hashes.ts';
import { parseLinkTarget, parseTreePath, VERSION_CONTROL_NAMES } from './path.ts';

export interface WalkOptions {
  /** Where the walked directory lands in the tree; '' is the tree's root. */
  into: string;
  /** Directories (real paths) that a link which leaves its own directory may lead into: its target is then taken in by copy. */
  mayFollowInto: readonly string[];
  signal: AbortSignal;
  /** Gives a file's hash without reading it, where that is sure. */
  known?: {
    get(path: string, signature: Signature): ContentHash | undefined;
    add(path: string, signature: Signature, hash: ContentHash): void;
  };
  /** Told of each file, so that its bytes can be stored later from where they lie. */
  onFile: (hash: ContentHash, path: string) => void;
  /** Told when a file had to be read. */
  onRead?: () => void;
}

/** The entries of one directory and everything below. Throws CODE_DEPLOY_FAILED. */
export async function walk(directory: string, options: WalkOptions): Promise<TreeEntry[]> {
  const entries: TreeEntry[] = [];
  let looked = 0;
  const root = await realpath(directory);
  const files = new AtMost(DEPLOY_FILES_AT_ONCE_MAX);
  await visit(root, options.into, [root]);
  await files.all();
  return entries;

  async function visit(from: string, to: string, above: string[]): Promise<void> {
    options.signal.throwIfAborted();
    // A look takes some ten microseconds; asked of a thread, ten times that.
    const names = readdirSync(from, { encoding: 'buffer' });
    names.sort(Buffer.compare);
    let kept = 0;
    for (const bytes of names) {
      const plain = bytes.toString('utf8');
      if (VERSION_CONTROL_NAMES.has(plain)) continue;
      const path = parseTreePath(to === '' ? bytes : Buffer.concat([Buffer.from(`${to}/`), bytes]));
      const source = join(from, plain);
      kept += 1;
      if (entries.length >= TREE_ENTRIES_MAX) {
        throw new CallboardError('CODE_DEPLOY_FAILED', { reason: `The code has more than ${TREE_ENTRIES_MAX} files` });
      }
      if (++looked % LOOKS_IN_A_TURN === 0) await new Promise((turn) => setImmediate(turn));
      const about = lstatSync(source, { bigint: true });
      if (about.isDirectory()) await visit(source, path, [...above, source]);
      else if (about.isFile()) await file(source, path, about);
      else if (about.isSymbolicLink()) await link(source, path, above);
      else throw refuse(`'${source}' is neither a file, a directory nor a link`);
    }
    if (kept === 0 && to !== '') entries.push({ kind: 'directory', path: to });
  }

  async function file(source: string, path: string, about: BigIntStats): Promise<void> {
    const hash = options.known?.get(source, about);
    if (hash) found(hash, Number(about.size));
    else {
      await files.run(async () => {
        const { hash, size } = await hashFile(source, Number(about.size));
        options.onRead?.();
        options.known?.add(source, about, hash);
        found(hash, size);
      });
    }
    function found(hash: ContentHash, size: number): void {
      options.onFile(hash, source);
      entries.push({ kind: 'file', path, mode: (about.mode & 0o100n) === 0n ? '644' : '755', hash, size });
    }
  }

  async function link(source: string, path: string, above: string[]): Promise<void> {
    const target = parseLinkTarget((await readlink(source, { encoding: 'buffer' })) as unknown as Buffer, source);
    const meant = posix.join(dirname(source), target);
    if (!target.startsWith('/') && inside(root, meant)) {
      entries.push({ kind: 'link', path, target });
      return;
    }
    const real = await realpath(source).catch(() => undefined);
    if (real === undefined) throw refuse(`The link '${source}' leads nowhere: ${target}`);
    if (!options.mayFollowInto.some((folder) => inside(folder, real))) {
      throw refuse(`The link '${source}' leaves its directory: ${target}`);
    }
    if (above.includes(real)) throw refuse(`The link '${source}' leads to a directory that it lies in`);
    const about = await stat(real, { bigint: true });
    if (about.isDirectory()) await visit(real, path, [...above, real]);
    else if (about.isFile()) await file(real, path, about);
    else throw refuse(`The link '${source}' leads to neither a file nor a directory`);
  }
}

/** Then others have a turn: about a millisecond. */
const LOOKS_IN_A_TURN = 100;

/** SHA-256 and number of the bytes read, streamed where the file is large. */
async function hashFile(path: string, sizeExpected: number): Promise<{ hash: ContentHash; size: number }> {
  const hash = createHash('sha256');
  let size = 0;
  const take = (bytes: Buffer): void => {
    hash.update(bytes);
    size += bytes.length;
  };
  if (sizeExpected <= DEPLOY_FILE_IN_MEMORY_BYTES_MAX) take(await readFile(path));
  else for await (const bytes of createReadStream(path)) take(bytes);
  return { hash: hash.digest('hex') as ContentHash, size };
}

function inside(folder: string, path: string): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

function refuse(reason: string): CallboardError {
  return new CallboardError('CODE_DEPLOY_FAILED', { reason });
}
