/**
 * Repositories of modules, mirrored once for all deploys: of many environments that are deployed at once with the same
 * Puppetfile only one asks each git server. What installs a Puppetfile keeps a cache of its own all the same, and fills it from
 * the mirrors on this disk (git's `url.….insteadOf`).
 *
 * Only a help: a repository that is not found by reading the Puppetfile, or cannot be mirrored, is fetched by the installer
 * itself, and its failure is the installer's to tell.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DEPLOY_TIME_MAX_MS, MODULE_FETCHES_AT_ONCE_MAX } from '../model/limits.ts';
import { AtMost } from './at-most.ts';
import { GitError, type GitOptions, git, writeGitConfig } from './git.ts';
import { checkRepository, shownRepository } from './ref.ts';

export interface MirroredModule {
  /** As the Puppetfile names it. */
  repo: string;
  directory: string;
}

/**
 * The repositories that a Puppetfile names in plain words. None where some name is made by Ruby: git replaces beginnings of
 * URLs, and one that was not seen could begin with one that was.
 */
export function moduleRepositories(puppetfile: string): string[] {
  const found = new Set<string>();
  const code = puppetfile.replace(/^\s*#.*$/gm, '');
  for (const [, single, double] of code.matchAll(/(?::git\s*=>\s*|\bgit:\s+)(?:'([^'\n\\]+)'|"([^"\n\\#]+)")?/g)) {
    const repo = single ?? double;
    if (repo === undefined) return [];
    try {
      found.add(checkRepository(repo));
    } catch {
      return [];
    }
  }
  const all = [...found];
  return all.filter((repo) => !all.some((other) => other !== repo && other.startsWith(repo)));
}

/** Fetches of mirrors by directory: the last one that began. */
const fetches = new Map<string, { beganAt: number; done: Promise<void> }>();

/** Brings the mirrors up to what the repositories hold at `since` or later, several at once. */
export async function mirrorModules(
  state: string,
  repos: readonly string[],
  context: { since: number; signal: AbortSignal; log: (line: string) => void },
): Promise<MirroredModule[]> {
  const mirrored: MirroredModule[] = [];
  const atMost = new AtMost(MODULE_FETCHES_AT_ONCE_MAX);
  for (const repo of repos) {
    await atMost.run(async () => {
      const directory = join(state, 'git', 'modules', createHash('sha256').update(repo).digest('hex'));
      try {
        const asked = await fetchSince(directory, repo, context.since, context.signal);
        if (asked) context.log(`Module repository ${shownRepository(repo)} fetched`);
        mirrored.push({ repo, directory });
      } catch (error) {
        context.signal.throwIfAborted();
        if (!(error instanceof GitError)) throw error;
        context.log(`Module repository ${shownRepository(repo)} is left to the installer: ${error.message}`);
      }
    });
  }
  await atMost.all();
  return mirrored.sort((a, b) => (a.repo < b.repo ? -1 : 1));
}

/** False: somebody else's fetch was late enough. */
async function fetchSince(directory: string, repo: string, since: number, signal: AbortSignal): Promise<boolean> {
  for (;;) {
    const last = fetches.get(directory);
    if (last && last.beganAt >= since) {
      await unlessAborted(last.done, signal);
      if (await isThere(directory)) return false;
      // Somebody took the mirror away: a fetch that began before that is no help.
      if (fetches.get(directory) === last) fetches.delete(directory);
      continue;
    }
    if (last) await unlessAborted(last.done, signal).catch(() => signal.throwIfAborted());
    if (fetches.get(directory) !== last) continue; // Another one that waited was first.
    const done = fetchMirror(directory, repo);
    done.catch(() => {});
    fetches.set(directory, { beganAt: Date.now(), done });
    await unlessAborted(done, signal);
    return true;
  }
}

/** A fetch serves others than who began it: it goes on when that one is aborted. */
async function unlessAborted(done: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    await Promise.race([done, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

async function fetchMirror(directory: string, repo: string): Promise<void> {
  const parent = join(directory, '..');
  await mkdir(parent, { recursive: true, mode: 0o700 });
  const config = `${directory}.gitconfig`;
  await writeGitConfig(config, repo.startsWith('/') ? [repo, `${repo.replace(/\/+$/, '')}/.git`] : []);
  const options: GitOptions = { signal: AbortSignal.timeout(DEPLOY_TIME_MAX_MS), config };
  if (await isThere(directory)) {
    try {
      await git(
        [
          '--git-dir',
          directory,
          '-c',
          'gc.auto=0',
          'fetch',
          '--quiet',
          '--prune',
          '--force',
          '--',
          repo,
          '+refs/*:refs/*',
        ],
        options,
      );
      return;
    } catch (error) {
      // What a killed git or a power cut left is not mended but made anew.
      if (
        !(
          error instanceof GitError &&
          /\.lock|bad object|missing |corrupt|unable to read|broken ref/i.test(error.stderr)
        )
      )
        throw error;
      const aside = `${directory}-${randomBytes(6).toString('hex')}`;
      await rename(directory, aside).catch(() => {});
      await rm(aside, { recursive: true, force: true });
    }
  }
  const beside = `${directory}-${randomBytes(6).toString('hex')}`;
  try {
    await git(['clone', '--quiet', '--mirror', '--', repo, beside], options);
    await rename(beside, directory);
  } finally {
    await rm(beside, { recursive: true, force: true });
  }
}

async function isThere(directory: string): Promise<boolean> {
  return (await stat(join(directory, 'HEAD')).catch(() => undefined)) !== undefined;
}
