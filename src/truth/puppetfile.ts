/**
 * A Puppetfile, resolved by the real r10k or g10k: the commit's files are laid out in a private directory, the installer works
 * in it, and what lies there afterwards is the code. Repositories of modules are mirrored once for all deploys; beside that the
 * installer has a cache: a deploy takes the first one that no other uses, so that they neither wait for nor disturb one another,
 * and one after another all use the same. A Puppetfile is Ruby that r10k runs as this server's user: whoever may deploy may run
 * code here, as with any Puppet server.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ExecaError, execa } from 'execa';
import { parse, stringify } from 'yaml';
import { CallboardError } from '../model/errors.ts';
import type { ContentHash } from '../model/ids.ts';
import { DEPLOY_TIME_MAX_MS, MODULE_CACHES_MAX } from '../model/limits.ts';
import type { TreeEntry } from '../model/tree.ts';
import type { FileEntry } from './folder.ts';
import { gitEnvironment, writeGitConfig } from './git.ts';
import { installationKey, rememberedInstallation, rememberInstallation } from './installed.ts';
import { type MirroredModule, mirrorModules, moduleRepositories } from './module-mirrors.ts';
import { type StoredContent, writeTreeFiles } from './tree-files.ts';
import { walk } from './walk.ts';

/** A file changed less than this before the installer began may have been changed by it: the kernel's clock for files is coarse. */
const CLOCK_GRAIN_NS = 50_000_000n;

/** g10k notes in each module which commit it is: the same code would be another code version. */
const G10K_NOTE = /\/\.latest_commit$/;

export interface PuppetfileContext {
  /** The commit's entries. Their content is stored. */
  committed: readonly TreeEntry[];
  /** Told where each installed file lies, until `stored` has returned. */
  onFile: (hash: ContentHash, path: string) => void;
  /** Told of each file that had to be read: all that were installed, since each installation is a new one. */
  onRead: () => void;
  /** Stores the installed files: afterwards they are removed. */
  stored: (entries: readonly TreeEntry[]) => Promise<void>;
  /** When the deploy was asked for: modules are taken as they were then or later. */
  since: number;
  signal: AbortSignal;
  log: (line: string) => void;
}

export interface PuppetfileSettings {
  /** The r10k program, by path or by name. */
  r10k: string;
  /** The site's own r10k.yaml, for its forge, proxies and git settings. Need not be there. */
  r10kConfig?: string | undefined;
  /** The g10k program, which then takes r10k's place. */
  g10k?: string | undefined;
}

/** What this needs of the content store. */
export interface InstalledContent extends StoredContent {
  missing(hashes: Iterable<ContentHash>): Promise<ContentHash[]>;
}

async function readPuppetfile(content: StoredContent, committed: readonly TreeEntry[]): Promise<string> {
  const entry = committed.find(({ path }) => path === 'Puppetfile');
  if (entry?.kind !== 'file') throw new Error('the control repo has no Puppetfile');
  return (await content.read(entry.hash)).toString('utf8');
}

/** The code with the Puppetfile's modules in it. Throws CODE_DEPLOY_FAILED; the installer's own words are in the log. */
export async function installPuppetfile(
  settings: PuppetfileSettings & { state: string; content: InstalledContent },
  context: PuppetfileContext,
): Promise<TreeEntry[]> {
  const { signal, log } = context;
  const install = settings.g10k === undefined ? runR10k : runG10k;
  const tool = settings.g10k === undefined ? 'r10k' : 'g10k';
  const puppetfile = await readPuppetfile(settings.content, context.committed);
  const repos = moduleRepositories(puppetfile);
  const mirrored = await mirrorModules(settings.state, repos, context);
  const installer = [tool, settings.g10k ?? settings.r10k, await readSiteConfig(settings.r10kConfig)];
  const { committed } = context;
  const key = await installationKey({ puppetfile, installer, committed, repos, mirrored, signal });
  const remembered = key && (await rememberedInstallation(settings.state, key, settings.content));
  if (remembered) {
    log('The modules of the Puppetfile are those that were installed before');
    return [...committed, ...remembered];
  }
  const parent = join(settings.state, 'git', 'staging');
  await mkdir(parent, { recursive: true, mode: 0o700 });
  await sweep(parent);
  const staging = await mkdtemp(join(parent, 'deploy-'));
  try {
    await writeTreeFiles(staging, context.committed, { content: settings.content, modes: 'private', signal });
    const began = BigInt(Date.now()) * 1_000_000n;
    log(`The control repo has a Puppetfile: running ${tool}`);
    await withCache(settings.state, tool, signal, (cache, started) =>
      install(settings, { staging, cache, mirrored, started, ...context }),
    );

    const known = new Map<string, FileEntry>();
    for (const entry of committed) if (entry.kind === 'file') known.set(join(staging, entry.path), entry);
    const walked = await walk(staging, {
      into: '',
      mayFollowInto: [],
      signal,
      known: {
        get: (path, { size, ctimeNs }) => {
          const entry = known.get(path);
          return entry && BigInt(entry.size) === size && ctimeNs < began - CLOCK_GRAIN_NS ? entry.hash : undefined;
        },
        add: () => {},
      },
      onFile: context.onFile,
      onRead: context.onRead,
    });
    const entries = walked.filter(({ path }) => !G10K_NOTE.test(path) || known.has(join(staging, path)));
    await context.stored(entries);
    if (key) {
      const own = new Set(committed.map((entry) => entry.path));
      const installed = entries.filter((entry) => !own.has(entry.path));
      if (entries.length === committed.length + installed.length)
        await rememberInstallation(settings.state, key, installed);
    }
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
 * Gives the first cache that nobody uses, while `use` runs. A note beside the cache names the process that works in it: one of a
 * killed server that still runs is left alone, and a cache in which an installer was killed is made anew.
 */
async function withCache<Result>(
  state: string,
  tool: string,
  signal: AbortSignal,
  use: (cache: string, started: (pid: number) => Promise<void>) => Promise<Result>,
): Promise<Result> {
  for (;;) {
    signal.throwIfAborted();
    for (let number = 0; number < MODULE_CACHES_MAX; number += 1) {
      const cache = join(state, 'git', `${tool}-${number}`);
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
        // An installer that ended by itself leaves a cache that it can use again; one that was ended may not.
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
      setTimeout(resolve, CACHE_LOOK_AGAIN_MS).unref(); // A stranger's process tells nobody when it ends.
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

interface Installation extends Pick<PuppetfileContext, 'signal' | 'log'> {
  staging: string;
  cache: string;
  mirrored: readonly MirroredModule[];
  /** Told the installer's process. */
  started: (pid: number) => Promise<void>;
}

async function runR10k(settings: PuppetfileSettings, installation: Installation): Promise<void> {
  const { cache } = installation;
  const config = `${cache}.yaml`;
  const site = await readSiteConfig(settings.r10kConfig);
  const git = { ...(typeof site.git === 'object' ? site.git : {}), provider: 'shellgit' };
  await writeFile(config, stringify({ ...site, cachedir: cache, git }), { mode: 0o600 });
  await runInstaller(
    { name: 'r10k', program: settings.r10k, error: /^(?:ERROR|FATAL)\s*->\s*(.+)/ },
    ['puppetfile', 'install', '--config', config, '--verbose=info'],
    installation,
  );
}

/** g10k reads no configuration in this mode: its forge is what the Puppetfile says, its proxy what the environment says. */
async function runG10k(settings: PuppetfileSettings, installation: Installation): Promise<void> {
  await runInstaller(
    { name: 'g10k', program: settings.g10k!, error: /^(?:Fatal|Error): *(.+)|^(\w+\(\): Error .+)/ },
    ['-puppetfile', '-cachedir', installation.cache, '-info'],
    installation,
    // It counts before the flag.
    { g10k_cachedir: installation.cache },
  );
}

/** `tool.error` finds the words in a line of the output that say why it failed. */
async function runInstaller(
  tool: { name: string; program: string; error: RegExp },
  args: string[],
  { staging, cache, mirrored, started, signal, log }: Installation,
  variables: Record<string, string> = {},
): Promise<void> {
  const gitConfig = `${cache}.gitconfig`;
  await writeGitConfig(gitConfig, [], mirrored);
  let firstError: string | undefined;
  let gitsWords: string | undefined;
  try {
    const child = execa(tool.program, args, {
      cwd: staging,
      env: { ...gitEnvironment(gitConfig), ...variables },
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
      log(`${tool.name}: ${line}`);
      const words = tool.error.exec(line.replace(COLOURS, ''))?.slice(1).find(Boolean);
      if (words) firstError ??= words;
      gitsWords ??= /\b(?:fatal|ssh): .+/.exec(line)?.[0];
    }
    await noted;
    await child;
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (!(error instanceof ExecaError)) throw error;
    const reason =
      error.code === 'ENOENT'
        ? `The control repo has a Puppetfile, and '${tool.program}' is not installed on this server`
        : `${tool.name} could not install the Puppetfile: ${[firstError ?? error.shortMessage, gitsWords].filter(Boolean).join(' ')}`;
    throw new CallboardError('CODE_DEPLOY_FAILED', { reason }, { cause: error });
  }
}

const COLOURS = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, 'g');
