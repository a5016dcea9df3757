/**
 * A Puppetfile, resolved by the real r10k: the commit's files are laid out in a private directory, r10k installs into it, and
 * what lies there afterwards is the code. r10k fetches through a cache that deploys share: a deploy takes the first cache that
 * no other uses, so that they neither wait for nor disturb one another, and one after another all use the same. A Puppetfile is
 * Ruby that r10k runs as this server's user: whoever may deploy may run code here, as with any Puppet server.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ExecaError, execa } from 'execa';
import { parse, stringify } from 'yaml';
import { CallboardError } from '../model/errors.ts';
import type { ContentHash } from '../model/ids.ts';
import { DEPLOY_TIME_MAX_MS, R10K_CACHES_MAX } from '../model/limits.ts';
import type { TreeEntry } from '../model/tree.ts';
import type { FileEntry } from './folder.ts';
import { gitEnvironment, writeGitConfig } from './git.ts';
import { type StoredContent, writeTreeFiles } from './tree-files.ts';
import { walk } from './walk.ts';

/** A file changed less than this before r10k began may have been changed by it: the kernel's clock for files is coarse. */
const CLOCK_GRAIN_NS = 50_000_000n;

export interface PuppetfileContext {
  /** The commit's entries. Their content is stored. */
  committed: readonly TreeEntry[];
  /** Told where each installed file lies, until `stored` has returned. */
  onFile: (hash: ContentHash, path: string) => void;
  /** Stores the installed files: afterwards they are removed. */
  stored: (entries: readonly TreeEntry[]) => Promise<void>;
  signal: AbortSignal;
  log: (line: string) => void;
}

/** The code with the Puppetfile's modules in it. Throws CODE_DEPLOY_FAILED; r10k's own words are in the log. */
export async function installPuppetfile(
  settings: { state: string; r10k: string; r10kConfig?: string | undefined; content: StoredContent },
  context: PuppetfileContext,
): Promise<TreeEntry[]> {
  const { signal, log } = context;
  const parent = join(settings.state, 'git', 'staging');
  await mkdir(parent, { recursive: true, mode: 0o700 });
  await sweep(parent);
  const staging = await mkdtemp(join(parent, 'deploy-'));
  try {
    await writeTreeFiles(staging, context.committed, { content: settings.content, modes: 'private', signal });
    const began = BigInt(Date.now()) * 1_000_000n;
    log('The control repo has a Puppetfile: running r10k');
    await withCache(settings.state, signal, (cache, started) => runR10k(settings, staging, cache, started, context));

    const committed = new Map<string, FileEntry>();
    for (const entry of context.committed) if (entry.kind === 'file') committed.set(join(staging, entry.path), entry);
    const entries = await walk(staging, {
      into: '',
      mayFollowInto: [],
      signal,
      known: {
        get: (path, { size, ctimeNs }) => {
          const entry = committed.get(path);
          return entry && BigInt(entry.size) === size && ctimeNs < began - CLOCK_GRAIN_NS ? entry.hash : undefined;
        },
        add: () => {},
      },
      onFile: context.onFile,
    });
    await context.stored(entries);
    return entries;
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

/** Removes what deploys of killed servers left: no deploy that still runs is as old. */
async function sweep(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const about = await stat(join(parent, name)).catch(() => undefined);
    if (about && Date.now() - about.mtimeMs > 2 * DEPLOY_TIME_MAX_MS) {
      await rm(join(parent, name), { recursive: true, force: true });
    }
  }
}

/** Caches in use by this process, by number, and those who wait for one. */
const cachesInUse = new Set<string>();
const waiting: (() => void)[] = [];

/**
 * Gives the first cache that nobody uses, while `use` runs. A note beside the cache names the r10k that works in it: one of a
 * killed server that still runs is left alone, and a cache in which r10k was killed is made anew.
 */
async function withCache<Result>(
  state: string,
  signal: AbortSignal,
  use: (cache: string, started: (pid: number) => Promise<void>) => Promise<Result>,
): Promise<Result> {
  for (;;) {
    signal.throwIfAborted();
    for (let number = 0; number < R10K_CACHES_MAX; number += 1) {
      const cache = join(state, 'git', `r10k-${number}`);
      if (cachesInUse.has(cache)) continue;
      cachesInUse.add(cache);
      try {
        const note = `${cache}.user`;
        const user = await readFile(note, 'utf8').catch(() => undefined);
        if (user !== undefined) {
          if (user === (await processName(Number.parseInt(user, 10)))) continue;
          await rm(cache, { recursive: true, force: true });
        }
        await mkdir(cache, { recursive: true, mode: 0o700 });
        const result = await use(cache, async (pid) => writeFile(note, (await processName(pid)) ?? `${pid} ended`));
        await rm(note, { force: true });
        return result;
      } catch (error) {
        // r10k that ended by itself leaves a cache that it can use again; one that was ended may not.
        if (error instanceof CallboardError && !signal.aborted) await rm(`${cache}.user`, { force: true });
        throw error;
      } finally {
        cachesInUse.delete(cache);
        waiting.shift()?.();
      }
    }
    await new Promise<void>((resolve) => {
      waiting.push(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
      setTimeout(resolve, CACHE_LOOK_AGAIN_MS).unref(); // A stranger's r10k tells nobody when it ends.
    });
  }
}

const CACHE_LOOK_AGAIN_MS = 5000;

/** A process by its number and the moment it started, so that a number used again is somebody else. Undefined: it is gone. */
async function processName(pid: number): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The name, in parentheses, may hold anything; the state is the 3rd field and the start the 22nd.
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ');
  return fields && fields[0] !== 'Z' ? `${pid} ${fields[19]}` : undefined;
}

/** What of the site's r10k.yaml matters for a Puppetfile: where its forge and its proxies are. */
async function readSiteConfig(file: string | undefined): Promise<Record<string, unknown>> {
  if (file === undefined) return {};
  let site: unknown;
  try {
    site = parse(await readFile(file, 'utf8'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw new CallboardError('CODE_DEPLOY_FAILED', { reason: `'${file}' cannot be read: ${(error as Error).message}` });
  }
  const kept = Object.entries(site ?? {}).filter(([name]) => SITE_SETTINGS.has(name.replace(/^:/, '')));
  return Object.fromEntries(kept);
}

const SITE_SETTINGS = new Set(['forge', 'git', 'proxy', 'pool_size']);

async function runR10k(
  settings: { r10k: string; r10kConfig?: string | undefined },
  staging: string,
  cache: string,
  started: (pid: number) => Promise<void>,
  { signal, log }: PuppetfileContext,
): Promise<void> {
  const config = `${cache}.yaml`;
  const site = await readSiteConfig(settings.r10kConfig);
  const git = { ...(typeof site.git === 'object' ? site.git : {}), provider: 'shellgit' };
  await writeFile(config, stringify({ ...site, cachedir: cache, git }), { mode: 0o600 });
  const gitConfig = `${cache}.gitconfig`;
  await writeGitConfig(gitConfig, []);
  let firstError: string | undefined;
  try {
    const child = execa(settings.r10k, ['puppetfile', 'install', '--config', config, '--verbose=info'], {
      cwd: staging,
      env: gitEnvironment(gitConfig),
      extendEnv: false,
      stdin: 'ignore',
      all: true,
      buffer: false,
      cancelSignal: signal,
      killDescendants: true,
    });
    // Not awaited yet: what a process said is lost when nobody listens by the time it ends.
    const noted = child.pid === undefined ? undefined : started(child.pid);
    for await (const line of child.iterable({ from: 'all' })) {
      log(`r10k: ${line}`);
      const words = /^(?:ERROR|FATAL)\s*->\s*(.+)/.exec(line)?.[1];
      if (words) firstError ??= words;
    }
    await noted;
    await child;
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (!(error instanceof ExecaError)) throw error;
    const reason =
      error.code === 'ENOENT'
        ? `The control repo has a Puppetfile, and '${settings.r10k}' is not installed on this server`
        : `r10k could not install the Puppetfile: ${firstError ?? error.shortMessage}`;
    throw new CallboardError('CODE_DEPLOY_FAILED', { reason }, { cause: error });
  }
}
