/**
 * A git working tree as it is, committed or not, packed into a bundle with one commit. The repository is left as it was: the
 * index is a copy, new objects go to a folder of ours that borrows the repository's, and so do the commit and its reference.
 * What .gitignore leaves out is left out, unless it is tracked.
 */
import { copyFile, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { ExecaError, execa } from 'execa';
import { CallboardError } from '../model/errors.ts';
import { TRIAL_BYTES_MAX } from '../model/limits.ts';

/** The reference that the server looks for in the bundle. */
const TRIAL_REF = 'refs/heads/trial';
/** The same tree is the same commit: nobody's name, and no time. */
const NOBODY = { NAME: 'callboard', EMAIL: 'callboard@localhost', DATE: '@0 +0000' };

export interface PackedTree extends AsyncDisposable {
  /** The bundle's path. */
  bundle: string;
}

/** Throws SETTING_INVALID where there is no working tree, BODY_TOO_LARGE. */
export async function packWorkingTree(directory: string): Promise<PackedTree> {
  const within = resolve(directory);
  const root = await git(within, ['rev-parse', '--show-toplevel'], {}).catch((error: Error) => {
    const detail = { setting: '--local', value: directory, reason: `is no git working tree: ${error.message}` };
    throw new CallboardError('SETTING_INVALID', detail, {
      hint: 'Give the directory of a control repo.',
      cause: error,
    });
  });
  const folder = await mkdtemp(join(tmpdir(), 'callboard-tree-'));
  const remove = () => rm(folder, { recursive: true, force: true });
  try {
    const bundle = await pack(root, folder);
    const { size } = await stat(bundle);
    if (size > TRIAL_BYTES_MAX)
      throw new CallboardError(
        'BODY_TOO_LARGE',
        { max: TRIAL_BYTES_MAX },
        { hint: `The working tree packs to ${size} bytes. Leave large files out by .gitignore.` },
      );
    return { bundle, [Symbol.asyncDispose]: remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

async function pack(root: string, folder: string): Promise<string> {
  const ask = (name: string) => git(root, ['rev-parse', '--path-format=absolute', '--git-path', name], {});
  const [objects, index, format] = await Promise.all([
    ask('objects'),
    ask('index'),
    git(root, ['rev-parse', '--show-object-format'], {}),
  ]);
  const own = join(folder, 'own.git');
  await git(folder, ['init', '--quiet', '--bare', `--object-format=${format}`, own], {});
  await mkdir(join(own, 'objects/info'), { recursive: true });
  await writeFile(join(own, 'objects/info/alternates'), `${quoted(objects)}\n`);

  // A copy, so that tracked files stay tracked and unchanged ones need not be read again.
  const copy = join(folder, 'index');
  await copyFile(index, copy).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
  const apart = {
    GIT_INDEX_FILE: copy,
    GIT_OBJECT_DIRECTORY: join(own, 'objects'),
    GIT_ALTERNATE_OBJECT_DIRECTORIES: quoted(objects),
  };
  await git(root, ['add', '--all'], apart);
  const tree = await git(root, ['write-tree'], apart);

  const who = Object.fromEntries(
    Object.entries(NOBODY).flatMap(([name, value]) => [
      [`GIT_AUTHOR_${name}`, value],
      [`GIT_COMMITTER_${name}`, value],
    ]),
  );
  const inOwn = (args: string[], env: Record<string, string> = {}) => git(folder, ['--git-dir', own, ...args], env);
  const commit = await inOwn(['commit-tree', '-m', 'A working tree', tree], who);
  await inOwn(['update-ref', TRIAL_REF, commit]);
  const bundle = join(folder, 'tree.bundle');
  await inOwn(['bundle', 'create', '--quiet', bundle, TRIAL_REF]);
  return bundle;
}

/** As git reads a list of directories: in quotes, where the path holds what would end it. */
function quoted(path: string): string {
  return /["\\:\n]/.test(path) ? `"${path.replace(/["\\]/g, '\\$&').replaceAll('\n', '\\n')}"` : path;
}

async function git(directory: string, args: string[], env: Record<string, string>): Promise<string> {
  // What a hook or another git of the caller's says about where things are is not meant for this one.
  const unset = Object.fromEntries(
    Object.keys(process.env)
      .filter((name) =>
        /^GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|PREFIX)$/.test(name),
      )
      .map((name) => [name, undefined]),
  );
  try {
    const { stdout } = await execa('git', args, { cwd: directory, env: { ...unset, ...env, LC_ALL: 'C.UTF-8' } });
    return stdout;
  } catch (error) {
    if (!(error instanceof ExecaError)) throw error;
    throw new Error(String(error.stderr ?? '').trim() || error.shortMessage, { cause: error });
  }
}
