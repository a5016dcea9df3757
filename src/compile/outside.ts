/** Things outside of any code version that compiles looked at, looked at again (ruby/compile/PROTOCOL.md, "Reads"). */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { lstat, readdir, stat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { RUBY_ENVIRONMENT } from './ruby-environment.ts';

/** Whether one of them is another than it was. What cannot be looked at counts as another. */
export async function isOutsideChanged(outside: Readonly<Record<string, string | null>>): Promise<boolean> {
  for (const [thing, was] of Object.entries(outside))
    if ((await look(thing).catch(() => undefined)) !== was) return true;
  return false;
}

/** The digest of a thing as it is now; null where it is not there. */
export async function look(thing: string): Promise<string | null> {
  const space = thing.indexOf(' ');
  const name = thing.slice(space + 1);
  try {
    switch (thing.slice(0, space)) {
      case 'env': {
        const value = RUBY_ENVIRONMENT[name];
        return value === undefined ? null : createHash('sha256').update(value).digest('hex');
      }
      case 'file': {
        const hash = createHash('sha256');
        await pipeline(createReadStream(name), hash);
        return hash.digest('hex');
      }
      case 'kind': {
        const about = await lstat(name);
        if (about.isSymbolicLink()) return 'link';
        return about.isFile() ? 'file' : about.isDirectory() ? 'directory' : 'other';
      }
      case 'mode':
        return ((await stat(name)).mode & 0o7777).toString(8);
      case 'list': {
        const names = (await readdir(name, { encoding: 'buffer' })) as unknown as Buffer[];
        const hash = createHash('sha256');
        for (const each of names.sort(Buffer.compare)) hash.update(each).update('\n');
        return hash.digest('hex');
      }
      default:
        throw new Error(`nobody knows how to look at '${thing}'`);
    }
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EISDIR') return null;
    throw error;
  }
}
