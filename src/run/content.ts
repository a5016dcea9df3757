/**
 * The content that this node holds, by hash, as the control plane names it: `<directory>/<2 hex>/<hex>`. A file with such a name
 * is complete and was verified when it came: bytes are hashed while they stream into a file beside, which is renamed only
 * when the hash is right. Puppet reads these files itself, and checks them once more.
 */
import { createHash, randomBytes } from 'node:crypto';
import { access, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { CallboardError } from '../model/errors.ts';
import type { ContentHash } from '../model/ids.ts';
import { CONTENT_BYTES_MAX, NODE_FETCHES_MAX } from '../model/limits.ts';

export type FetchContent = (hash: ContentHash) => Promise<Readable>;

export class LocalContent {
  readonly directory: string;
  readonly #fetch: FetchContent;

  constructor(directory: string, fetch: FetchContent) {
    this.directory = directory;
    this.#fetch = fetch;
  }

  path(hash: string): string {
    return join(this.directory, hash.slice(0, 2), hash);
  }

  async read(hash: ContentHash): Promise<Buffer> {
    return readFile(this.path(hash));
  }

  /** Those of the hashes that are not here, each once. */
  async lacking(hashes: Iterable<ContentHash>): Promise<ContentHash[]> {
    const lacking: ContentHash[] = [];
    for (const hash of new Set(hashes)) {
      await access(this.path(hash)).catch(() => lacking.push(hash));
    }
    return lacking;
  }

  /** Fetches what is lacking, several at a time; resolves to how much that was. The first failure ends it; what came is kept. */
  async ensure(hashes: Iterable<ContentHash>): Promise<{ files: number; bytes: number }> {
    const wanted = await this.lacking(hashes);
    let bytes = 0;
    const next = wanted[Symbol.iterator]();
    await Promise.all(
      Array.from({ length: Math.min(NODE_FETCHES_MAX, wanted.length) }, async () => {
        for (const hash of next) bytes += await this.#fetchOne(hash);
      }),
    );
    return { files: wanted.length, bytes };
  }

  async #fetchOne(hash: ContentHash): Promise<number> {
    await mkdir(join(this.directory, hash.slice(0, 2)), { recursive: true });
    const beside = `${this.path(hash)}.${randomBytes(6).toString('hex')}.part`;
    const digest = createHash('sha256');
    let size = 0;
    try {
      const file = await open(beside, 'wx', 0o644);
      try {
        for await (const chunk of await this.#fetch(hash)) {
          digest.update(chunk);
          size += chunk.length;
          if (size > CONTENT_BYTES_MAX) throw new CallboardError('BODY_TOO_LARGE', { max: CONTENT_BYTES_MAX });
          await file.writeFile(chunk);
        }
        await file.datasync();
      } finally {
        await file.close();
      }
      const actual = digest.digest('hex');
      if (actual !== hash) throw new CallboardError('CONTENT_MISMATCH', { actual, expected: hash });
      await rename(beside, this.path(hash));
      return size;
    } finally {
      await rm(beside, { force: true });
    }
  }

  /** Removes everything but `keep`; resolves to what it freed. Not to be called while something fetches. */
  async collect(keep: Set<string>): Promise<{ files: number; bytes: number }> {
    let files = 0;
    let bytes = 0;
    for (const prefix of await readdir(this.directory).catch(() => [])) {
      for (const name of await readdir(join(this.directory, prefix))) {
        if (keep.has(name)) continue;
        const path = join(this.directory, prefix, name);
        bytes += (await stat(path)).size;
        files++;
        await rm(path, { force: true });
      }
    }
    return { files, bytes };
  }
}
