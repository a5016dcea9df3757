/**
 * A Puppetfile, resolved by the real r10k: the commit's files are laid out in a private directory, r10k installs into it, and
 * what lies there afterwards is the code. r10k fetches through a cache that deploys share: a deploy takes the first cache that
 * no other uses, so that they neither wait for nor disturb one another, and one after another all use the same. A Puppetfile is
 * Ruby that r10k runs as this server's user: whoever may deploy may run code here, as with any Puppet server.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ExecaError, execa } from 'execa';
import { parse, stringify } from 'yaml';
import { CallboardError } from '../model/errors.ts';
import type { ContentHash } from '../model/ids.ts';
import { R10K_CACHES_MAX } from '../model/limits.ts';
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
  const staging = await mkdtemp(join(parent, 'deploy-'));
  try {
    await writeTreeFiles(staging, context.committed, { content: settings.content, modes: 'private', signal });
    const began = BigInt(Date.now()) * 1_000_000n;
    log('The control repo has a Puppetfile: running r10k');
    await withCache(signal, (number) => runR10k(settings, staging, number, context));

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

/** Caches in use by this process, by number, and those who wait for one. */
const cachesInUse = new Set<number>();
const waiting: (() => void)[] = [];

async function withCache<Result>(signal: AbortSignal, use: (number: number) => Promise<Result>): Promise<Result> {
  for (;;) {
    signal.throwIfAborted();
    let number = 0;
    while (cachesInUse.has(number)) number += 1;
    if (number < R10K_CACHES_MAX) {
      cachesInUse.add(number);
      try {
        return await use(number);
      } finally {
        cachesInUse.delete(number);
        waiting.shift()?.();
      }
    }
    await new Promise<void>((resolve) => {
      waiting.push(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
  }
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
  settings: { state: string; r10k: string; r10kConfig?: string | undefined },
  staging: string,
  cacheNumber: number,
  { signal, log }: PuppetfileContext,
): Promise<void> {
  const cache = join(settings.state, 'git', `r10k-${cacheNumber}`);
  await mkdir(cache, { recursive: true, mode: 0o700 });
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
    for await (const line of child.iterable({ from: 'all' })) {
      log(`r10k: ${line}`);
      const words = /^(?:ERROR|FATAL)\s*->\s*(.+)/.exec(line)?.[1];
      if (words) firstError ??= words;
    }
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
