/** A code version on disk, made of the files that a test names. */
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll } from 'vitest';

const laid: string[] = [];
afterAll(async () => {
  for (const directory of laid) await rm(directory, { recursive: true, force: true });
});

/** Text; a link `-> target`; or text with the mode 755. */
export type Entry = string | { link: string } | { executable: string };

/** Its directory, removed when the test file ends. `modulepath` defaults to `modules`. */
export async function codeTree(files: Record<string, Entry>, modulepath = ['modules']): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'callboard-code-'));
  laid.push(directory);
  const all: Record<string, Entry> = { '.callboard/environment.json': JSON.stringify({ modulepath }), ...files };
  for (const [name, entry] of Object.entries(all)) {
    const path = join(directory, name);
    await mkdir(dirname(path), { recursive: true });
    if (typeof entry === 'string') await writeFile(path, entry);
    else if ('link' in entry) await symlink(entry.link, path);
    else {
      await writeFile(path, entry.executable);
      await chmod(path, 0o755);
    }
  }
  return directory;
}
