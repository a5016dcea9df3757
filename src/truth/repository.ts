/**
 * Control repos, mirrored: `<state>/git/<hash of the repository's name>/` is a bare repository that keeps each commit ever
 * deployed under `refs/callboard/commit/<commit>`, so that the next fetch only brings what is new. A deploy fetches into names
 * of its own (`refs/callboard/deploy/<id>/…`): deploys from one repository, and a killed server's leftovers, never meet.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { CallboardError } from '../model/errors.ts';
import { BRANCHES_MAX, GIT_LIST_TIME_MAX_MS, TREE_ENTRIES_MAX } from '../model/limits.ts';
import { GitError, type GitOptions, git, gitStream, writeGitConfig } from './git.ts';
import { parseTreePath } from './path.ts';
import { looksLikeCommit, shownRepository } from './ref.ts';

export type RepositoryEntry =
  | { kind: 'file'; path: string; mode: '644' | '755'; blob: string; size: number }
  | { kind: 'link'; path: string; blob: string; size: number }
  /** A submodule: git keeps only its commit here. */
  | { kind: 'submodule'; path: string };

export interface Repository {
  /** The mirror's own directory. */
  directory: string;
  options: GitOptions;
}

/**
 * Brings what `ref` means into the mirror; the commit, which can be read at once, and what gives it its name for good. Both throw
 * CODE_DEPLOY_FAILED with git's own words.
 */
export async function fetchCommit(
  state: string,
  request: { repo: string; ref: string; deploy: string },
  context: { signal: AbortSignal; log: (line: string) => void },
): Promise<{ repository: Repository; commit: string; keep: () => Promise<void> }> {
  const repository = await repositoryOf(state, request.repo, context.signal);
  const { directory } = repository;
  await makeMirror(repository);

  const own = `refs/callboard/deploy/${request.deploy}`;
  const inMirror = (args: string[], onLine?: (line: string) => void) =>
    git(['--git-dir', directory, ...args], { ...repository.options, ...(onLine ? { onLine } : {}) });
  const commitOf = async (name: string): Promise<string | undefined> => {
    try {
      const commit = await inMirror(['rev-parse', '--verify', '--quiet', '--end-of-options', `${name}^{commit}`]);
      return commit.toString('utf8').trim();
    } catch (error) {
      if (error instanceof GitError) return undefined;
      throw error;
    }
  };
  /** What a branch leads to, which is always a commit, from the file that git writes for it; one process less. */
  const justFetched = async (name: string): Promise<string | undefined> => {
    const text = await readFile(join(directory, name), 'latin1').catch(() => '');
    return /^([0-9a-f]{40}|[0-9a-f]{64})\n$/.exec(text)?.[1];
  };
  const fetch = (specs: string[]) =>
    inMirror(
      [
        '-c',
        'gc.auto=0',
        '-c',
        'maintenance.auto=false',
        'fetch',
        '--quiet',
        '--no-tags',
        '--no-write-fetch-head',
        '--force',
        '--',
        request.repo,
        ...specs,
      ],
      (line) => NO_SUCH_REF.test(line) || context.log(`git: ${line}`),
    );
  /** Whether the remote repository had it. */
  const fetched = async (name: string): Promise<boolean> => {
    try {
      await fetch([`+${name}:${own}/ref`]);
      return true;
    } catch (error) {
      if (error instanceof GitError && NO_SUCH_REF.test(error.stderr)) return false;
      throw error;
    }
  };

  const explain = async (error: unknown): Promise<never> => {
    if (!(error instanceof GitError)) throw error;
    if (MIRROR_DAMAGED.test(error.stderr)) {
      await removeMirror(repository);
      throw error; // Unexpected: the next attempt makes a new mirror.
    }
    throw new CallboardError(
      'CODE_DEPLOY_FAILED',
      { reason: `git could not fetch '${request.ref}' of ${shownRepository(request.repo)}: ${error.message}` },
      { cause: error },
    );
  };

  context.log(`Fetching '${request.ref}' of ${shownRepository(request.repo)}`);
  try {
    let commit: string | undefined;
    let names: string[] = [];
    for (const name of remoteNames(request.ref)) {
      if (!(await fetched(name))) continue;
      names = [`${own}/ref`];
      commit = (name.startsWith('refs/heads/') && (await justFetched(names[0]!))) || (await commitOf(names[0]!));
      break;
    }
    if (!commit && looksLikeCommit(request.ref)) {
      commit = await commitOf(request.ref);
      if (!commit) {
        await fetch([`+refs/heads/*:${own}/heads/*`, `+refs/tags/*:${own}/tags/*`]);
        commit = await commitOf(request.ref);
        const below = await inMirror(['for-each-ref', '--format=%(refname)', own]);
        names = below.toString('utf8').split('\n').filter(Boolean);
      }
    }
    if (!commit) {
      throw new CallboardError('CODE_DEPLOY_FAILED', {
        reason: `${shownRepository(request.repo)} has no branch, tag or commit '${request.ref}'`,
      });
    }
    const found = commit;
    return { repository, commit, keep: () => keep(repository, found, names).catch(explain) };
  } catch (error) {
    return await explain(error);
  }
}

/** A repository's place among the mirrors, and how git is run for it; the mirror need not be there. */
export async function repositoryOf(state: string, repo: string, signal: AbortSignal): Promise<Repository> {
  const name = createHash('sha256').update(repo).digest('hex');
  const config = join(state, 'git', `${name}.gitconfig`);
  const local = repo.startsWith('file:') ? decodeURIComponent(new URL(repo).pathname) : repo;
  await writeGitConfig(config, local.startsWith('/') ? [local, `${local.replace(/\/+$/, '')}/.git`] : []);
  return { directory: join(state, 'git', name), options: { signal, config } };
}

/** Where the branches of a repository are, asked of git itself. Throws GitError with git's own words, or a time-out. */
export async function listBranches(
  state: string,
  repo: string,
  signal: AbortSignal,
): Promise<{ branch: string; commit: string }[]> {
  const time = AbortSignal.timeout(GIT_LIST_TIME_MAX_MS);
  const { options } = await repositoryOf(state, repo, AbortSignal.any([signal, time]));
  const listed = await git(['ls-remote', '--heads', '--', repo], options);
  const branches = [...listed.toString('utf8').matchAll(/^([0-9a-f]{40,64})\trefs\/heads\/(.+)$/gm)].map(
    ([, commit, branch]) => ({ branch: branch!, commit: commit! }),
  );
  if (branches.length > BRANCHES_MAX)
    throw new CallboardError('CODE_SOURCE_INVALID', { reason: `it has more than ${BRANCHES_MAX} branches` });
  return branches;
}

/** git's words for objects or references of the mirror's that are not what they should be, as a power cut may leave them. */
const MIRROR_DAMAGED =
  /bad object|missing (?:blob|tree|commit|object)|corrupt|unable to read|did not send all necessary|broken ref/i;

/** What a repository may call `ref`: a branch before a tag, as r10k and people mean it. */
function remoteNames(ref: string): string[] {
  if (ref === 'HEAD' || ref.startsWith('refs/')) return [ref];
  return [`refs/heads/${ref}`, `refs/tags/${ref}`];
}

/** git's words when it asked for a reference that the remote repository does not have. */
const NO_SUCH_REF = /^fatal: couldn't find remote ref /m;

/** Out of the way at once, so that whoever comes next makes a new one. */
export async function removeMirror({ directory }: Repository): Promise<void> {
  const aside = `${directory}-${randomBytes(6).toString('hex')}`;
  await rename(directory, aside).catch(() => {});
  await rm(aside, { recursive: true, force: true });
}

/** A reference's lock that nobody holds any more: a killed git left it, and git itself never takes it away. */
async function removeStaleLocks({ directory }: Repository): Promise<void> {
  for (const name of await readdir(directory, { recursive: true })) {
    if (!name.endsWith('.lock')) continue;
    const about = await stat(join(directory, name)).catch(() => undefined);
    if (about && Date.now() - about.mtimeMs > LOCK_STALE_AFTER_MS) await rm(join(directory, name), { force: true });
  }
}

/** git holds the lock of a reference for a moment only. */
const LOCK_STALE_AFTER_MS = 60_000;

async function makeMirror({ directory, options }: Repository): Promise<void> {
  if (await stat(join(directory, 'HEAD')).catch(() => undefined)) return;
  const parent = join(directory, '..');
  await mkdir(parent, { recursive: true, mode: 0o700 });
  const beside = await mkdtemp(join(parent, 'new-'));
  try {
    await git(['init', '--quiet', '--bare', beside], options);
    await rename(beside, directory);
  } catch (error) {
    await rm(beside, { recursive: true, force: true });
    if (!(await stat(join(directory, 'HEAD')).catch(() => undefined))) throw error; // Else somebody else was first.
  }
}

/** Names the commit for good and removes the deploy's own names, together. */
async function keep(repository: Repository, commit: string, names: readonly string[]): Promise<void> {
  const { directory, options } = repository;
  const stdin = [`update refs/callboard/commit/${commit} ${commit}`, ...names.map((name) => `delete ${name}`), ''].join(
    '\n',
  );
  const update = () => git(['--git-dir', directory, 'update-ref', '--stdin'], { ...options, stdin });
  try {
    await update();
  } catch (error) {
    if (!(error instanceof GitError && error.stderr.includes('.lock'))) throw error;
    await removeStaleLocks(repository);
    await update();
  }
}

/** Everything a commit holds. Throws CODE_DEPLOY_FAILED for names that no code version may hold. */
export async function listCommit(repository: Repository, commit: string): Promise<RepositoryEntry[]> {
  const listed = await git(
    ['--git-dir', repository.directory, 'ls-tree', '-r', '-z', '--long', '--full-tree', commit],
    repository.options,
  );
  const entries: RepositoryEntry[] = [];
  for (let at = 0; at < listed.length; ) {
    const end = listed.indexOf(0, at);
    const tab = listed.indexOf(9, at);
    const [mode, , blob, size] = listed.toString('latin1', at, tab).split(/ +/) as [string, string, string, string];
    const path = parseTreePath(listed.subarray(tab + 1, end));
    at = end + 1;
    if (mode !== '160000' && !/^\d+$/.test(size)) throw new GitError(`The mirror lacks the object ${blob}`, '');
    if (mode === '160000') entries.push({ kind: 'submodule', path });
    else if (mode === '120000') entries.push({ kind: 'link', path, blob, size: Number(size) });
    else entries.push({ kind: 'file', path, mode: mode === '100755' ? '755' : '644', blob, size: Number(size) });
    if (entries.length > TREE_ENTRIES_MAX) {
      throw new CallboardError('CODE_DEPLOY_FAILED', { reason: `The commit has more than ${TREE_ENTRIES_MAX} files` });
    }
  }
  return entries;
}

/** The bytes of many small blobs by one process, in the order asked for. */
export async function* readBlobs(
  repository: Repository,
  blobs: readonly string[],
): AsyncGenerator<{ blob: string; bytes: Buffer }> {
  if (blobs.length === 0) return;
  const { stdout, ended } = gitStream(['--git-dir', repository.directory, 'cat-file', '--batch', '--buffer'], {
    ...repository.options,
    stdin: `${blobs.join('\n')}\n`,
  });
  const pieces: Buffer[] = [];
  let held = 0;
  const input = stdout[Symbol.asyncIterator]();
  const more = async (): Promise<void> => {
    const next = await input.next();
    if (next.done) {
      await ended;
      throw new Error('git cat-file ended early');
    }
    pieces.push(next.value as Buffer);
    held += next.value.length;
  };
  const join = (): Buffer => {
    const all = pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces, held);
    pieces.length = 0;
    return all;
  };
  for (const blob of blobs) {
    let all: Buffer;
    let end: number;
    for (;;) {
      all = join();
      end = all.indexOf(10);
      if (end >= 0) break;
      pieces.push(all);
      await more();
    }
    const [name, kind, size] = all.toString('latin1', 0, end).split(' ');
    if (name !== blob || kind !== 'blob') throw new Error(`git cat-file says '${all.toString('latin1', 0, end)}'`);
    const start = end + 1;
    const length = Number(size);
    pieces.push(all);
    held = all.length;
    while (held < start + length + 1) await more();
    all = join();
    yield { blob, bytes: all.subarray(start, start + length) };
    const left = all.subarray(start + length + 1);
    pieces.push(left);
    held = left.length;
  }
  await ended;
}

/** The bytes of one blob of any size, as a stream; git's own check of its hash is made while it streams. */
export function streamBlob(repository: Repository, blob: string): Readable {
  const { stdout, ended } = gitStream(
    ['--git-dir', repository.directory, 'cat-file', 'blob', blob],
    repository.options,
  );
  ended.catch((error) => stdout.destroy(error as Error));
  return stdout;
}
