/**
 * What a Puppetfile installed, remembered: when nothing that it depends on has changed, the same files would be installed again, so
 * no installer runs and no file is read. Only for a Puppetfile that is plain (modules of git repositories that are mirrored, and
 * releases of the forge by number) and whose directory of modules holds nothing of the control repo's own. Whatever else a
 * Puppetfile does, being Ruby, is the installer's to do each time.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContentHash } from '../model/ids.ts';
import { INSTALLED_KEPT_MAX } from '../model/limits.ts';
import { readTree, type TreeEntry, writeTree } from '../model/tree.ts';
import { git } from './git.ts';
import type { MirroredModule } from './module-mirrors.ts';

const DIRECTORY_DEFAULT = 'modules';
const WORD = `'[^'\\n\\\\]*'|"[^"\\n\\\\#]*"`;
const NAME = `(?:${WORD})`;
const OPTION = `(?::(?:git|ref|tag|branch|commit|default_branch)\\s*=>\\s*|(?:git|ref|tag|branch|commit|default_branch):\\s+)${NAME}`;
const GIT_MODULE = new RegExp(`^mod\\s+${NAME}(?:\\s*,\\s*${OPTION})+$`);
const FORGE_MODULE = new RegExp(`^mod\\s+${NAME}\\s*,\\s*['"]\\d+\\.\\d+\\.\\d+[\\w.+-]*['"]$`);
const MODULE_DIRECTORY = new RegExp(`^moduledir\\s+(${WORD})$`);
const FORGE = new RegExp(`^forge\\s+${NAME}$`);

/** The directory of modules, where the Puppetfile says nothing but which modules there are; else undefined. */
export function plainModuleDirectory(puppetfile: string): string | undefined {
  const code = puppetfile.replace(/^\s*#.*$/gm, '').replace(/\s+#[^'"\n]*$/gm, '');
  // A line that ends with a comma goes on in the next.
  const statements = code
    .replace(/,\s*\n\s*/g, ', ')
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
  let directory = DIRECTORY_DEFAULT;
  for (const statement of statements) {
    const named = MODULE_DIRECTORY.exec(statement)?.[1]?.slice(1, -1);
    if (named !== undefined) directory = named;
    else if (!GIT_MODULE.test(statement) && !FORGE_MODULE.test(statement) && !FORGE.test(statement)) return undefined;
  }
  return /^[\w-]+(\/[\w-]+)*$/.test(directory) ? directory : undefined;
}

/** Everything that decides what is installed; undefined where that cannot be told. */
export async function installationKey(about: {
  puppetfile: string;
  /** The program that installs, and what it is told beside the Puppetfile. */
  installer: unknown;
  committed: readonly TreeEntry[];
  repos: readonly string[];
  mirrored: readonly MirroredModule[];
  signal: AbortSignal;
}): Promise<string | undefined> {
  const directory = plainModuleDirectory(about.puppetfile);
  if (directory === undefined || about.mirrored.length < about.repos.length) return undefined;
  if (about.committed.some(({ path }) => path === directory || path.startsWith(`${directory}/`))) return undefined;
  const hash = createHash('sha256').update(JSON.stringify([1, about.puppetfile, about.installer]));
  for (const { repo, directory: mirror } of about.mirrored) {
    const options = { signal: about.signal, config: `${mirror}.gitconfig` };
    const refs = await git(['--git-dir', mirror, 'for-each-ref', '--format=%(objectname) %(refname)'], options);
    hash
      .update(`\n${repo}\n`)
      .update(refs)
      .update(await readFile(join(mirror, 'HEAD')));
  }
  return hash.digest('hex');
}

/** What was installed under this key: entries outside of the commit's. Undefined: nothing is remembered, or it is not all kept. */
export async function rememberedInstallation(
  state: string,
  key: string,
  content: { missing(hashes: Iterable<ContentHash>): Promise<ContentHash[]> },
): Promise<TreeEntry[] | undefined> {
  let entries: TreeEntry[];
  try {
    entries = readTree(await readFile(join(state, 'git', 'installed', key)));
  } catch {
    return undefined; // Not there, or damaged: it is made again.
  }
  const hashes = entries.flatMap((entry) => (entry.kind === 'file' ? [entry.hash] : []));
  return (await content.missing(hashes)).length === 0 ? entries : undefined;
}

export async function rememberInstallation(state: string, key: string, entries: TreeEntry[]): Promise<void> {
  const directory = join(state, 'git', 'installed');
  await mkdir(directory, { recursive: true, mode: 0o700 });
  // Deploys of several environments come to the same key at once.
  const beside = join(directory, `.${key}-${randomBytes(6).toString('hex')}`);
  await writeFile(beside, writeTree(entries));
  await rename(beside, join(directory, key));
  const kept = await Promise.all(
    (await readdir(directory)).map(async (name) => ({
      path: join(directory, name),
      at: (await stat(join(directory, name)).catch(() => undefined))?.mtimeMs ?? 0,
    })),
  );
  for (const { path } of kept.sort((a, b) => b.at - a.at).slice(INSTALLED_KEPT_MAX)) await rm(path, { force: true });
}
