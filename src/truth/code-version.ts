/**
 * Making a code version: from a repository and a reference to two tree manifests, with every byte they name in the content
 * store. Nothing here knows environments' rows or nodes. The same bytes in the same places give the same name, whatever the
 * commit, the machine or the day; when this returns, all content was there a moment ago.
 *
 * The commit's files are read straight from git's objects (attributes such as `eol` or `filter` are not applied): a checkout is
 * only made for r10k, which needs one.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { join, matchesGlob } from 'node:path';
import type { Readable } from 'node:stream';
import { CallboardError } from '../model/errors.ts';
import type { CodeVersionHash, ContentHash } from '../model/ids.ts';
import { DEPLOY_FILE_IN_MEMORY_BYTES_MAX, DEPLOY_FILES_AT_ONCE_MAX, TREE_ENTRIES_MAX } from '../model/limits.ts';
import { type TreeEntry, treeHash, writeTree } from '../model/tree.ts';
import { AtMost } from './at-most.ts';
import { Folder, linksOutside } from './folder.ts';
import { GitError } from './git.ts';
import { KnownBlobs } from './known-hashes.ts';
import { type ModulepathEntry, planModulepath, readEnvironmentConf } from './modulepath.ts';
import { CALLBOARD_FOLDER, parseLinkTarget } from './path.ts';
import { environmentFile, findModules, pluginTree } from './plugins.ts';
import { installPuppetfile, type PuppetfileSettings } from './puppetfile.ts';
import {
  fetchCommit,
  listCommit,
  type Repository,
  type RepositoryEntry,
  readBlobs,
  removeMirror,
  streamBlob,
} from './repository.ts';
import { serverModules } from './server-modules.ts';

/** What this room needs of the content store. */
export interface DeployedContent {
  put(hash: ContentHash, bytes: Readable | Buffer): Promise<{ existed: boolean }>;
  missing(hashes: Iterable<ContentHash>): Promise<ContentHash[]>;
  read(hash: ContentHash): Promise<Buffer>;
  get(hash: ContentHash): Promise<{ stream: Readable }>;
}

export interface CodeVersionSettings extends PuppetfileSettings {
  /** The server's state directory; `git/` below it is this room's. */
  state: string;
  /** What `$basemodulepath` means: the server's own module directories. */
  basemodulepath: readonly string[];
}

interface MakingContext {
  /** When the code version was asked for: modules are taken as they were then or later. */
  since: number;
  signal: AbortSignal;
  log: (line: string) => void;
}

export interface CodeVersion {
  id: CodeVersionHash;
  plugins: ContentHash;
  commit: string;
  files: number;
  bytes: number;
  /** Everything that must be in the content store: both manifests and all files. */
  contents: ContentHash[];
  /** What the plugin tree names, itself among it. */
  pluginContents: ContentHash[];
}

/** How many of the files had to be read or stored: what a deploy of few changes is measured by. */
interface Work {
  read: number;
  stored: number;
}

type Source = { blob: string; size: number } | { path: string } | { bytes: Buffer };

/** Throws CODE_DEPLOY_FAILED with a sentence for whoever asked; anything else is unexpected and may go away by itself. */
export async function makeCodeVersion(
  deps: CodeVersionSettings & { content: DeployedContent },
  request: { repo: string; ref: string; environment: string; deploy: string },
  context: MakingContext,
): Promise<CodeVersion> {
  const ended = new AbortController();
  const readServer = serverModules(deps.state, AbortSignal.any([context.signal, ended.signal]));
  // Most modulepaths end with `$basemodulepath`: what it means here is looked at while git fetches.
  const { environment } = request;
  const ahead = async () =>
    readServer(serverEntries(planModulepath(undefined, { environment, basemodulepath: deps.basemodulepath })));
  ahead().catch(() => {});
  try {
    const { repository, commit, keep } = await fetchCommit(deps.state, request, context);
    context.log(`Commit ${commit}`);
    const reading = readCommit({ ...deps, readServer }, repository, commit, environment, context);
    const [read, kept] = await Promise.allSettled([reading, keep()]);
    if (read.status === 'fulfilled' && kept.status === 'fulfilled') return read.value;
    // What was fetched cannot be read: the mirror is damaged. The next attempt makes a new one. No git writes to it any more.
    const error = read.status === 'rejected' ? read.reason : (kept as PromiseRejectedResult).reason;
    if (error instanceof GitError) await removeMirror(repository);
    throw error;
  } finally {
    ended.abort();
  }
}

function serverEntries(plan: readonly ModulepathEntry[]): ModulepathEntry[] {
  return plan.filter((entry) => entry.place === 'server');
}

async function readCommit(
  deps: CodeVersionSettings & { content: DeployedContent; readServer: ReturnType<typeof serverModules> },
  repository: Repository,
  commit: string,
  environment: string,
  context: MakingContext,
): Promise<CodeVersion> {
  const { signal, log, since } = context;

  const sources = new Map<ContentHash, Source>();
  const work: Work = { read: 0, stored: 0 };
  const listed = await listCommit(repository, commit);
  for (const entry of listed) {
    if (entry.path === CALLBOARD_FOLDER || entry.path.startsWith(`${CALLBOARD_FOLDER}/`)) {
      throw refuse(`The control repo holds '${entry.path}', a name that Callboard keeps for itself`);
    }
  }
  const committed = await readRepository(deps, repository, listed, sources, work, context);

  let entries = committed;
  if (committed.some((entry) => entry.kind === 'file' && entry.path === 'Puppetfile')) {
    await store(deps.content, repository, hashesOf(committed), sources, work, signal);
    entries = await installPuppetfile(deps, {
      committed,
      onFile: (hash, path) => {
        if (!sources.has(hash)) sources.set(hash, { path });
      },
      onRead: () => {
        work.read += 1;
      },
      stored: (installed) => store(deps.content, repository, hashesOf(installed), sources, work, signal),
      since,
      signal,
      log,
    });
  }

  const folder = new Folder(entries);
  const plan = await planned(folder, deps, environment);
  const server = await deps.readServer(serverEntries(plan));
  for (const line of server.lines) log(line);
  for (const [hash, path] of server.files) if (!sources.has(hash)) sources.set(hash, { path });
  work.read += server.read;
  const taken = server.directories.values();
  const modulepath = plan.flatMap((entry) =>
    entry.place === 'repo' ? repoDirectories(folder, entry, log) : taken.next().value!,
  );
  const about = environmentFile(modulepath);
  const aboutHash = sha256(about);
  sources.set(aboutHash, { bytes: about });
  const aboutPath = `${CALLBOARD_FOLDER}/environment.json`;
  const all: TreeEntry[] = [
    ...entries,
    ...server.entries,
    { kind: 'file', path: aboutPath, mode: '644', hash: aboutHash, size: about.length },
  ];
  if (all.length > TREE_ENTRIES_MAX) throw refuse(`The code has more than ${TREE_ENTRIES_MAX} files`);
  const whole = new Folder(all);
  const outside = linksOutside(all, whole);
  if (outside.length > 0) {
    const { path, target } = outside[0]!;
    throw refuse(`The link '${path}' leaves the control repo: ${target}`);
  }

  const manifest = writeTree(all);
  const pluginEntries = pluginTree(whole, modulepath);
  const pluginManifest = writeTree(pluginEntries);
  const id = treeHash(manifest) as CodeVersionHash;
  const plugins = treeHash(pluginManifest) as ContentHash;
  sources.set(id as string as ContentHash, { bytes: manifest });
  sources.set(plugins, { bytes: pluginManifest });

  const files = all.filter((entry) => entry.kind === 'file');
  const contents = [...new Set<ContentHash>([id as string as ContentHash, plugins, ...files.map((file) => file.hash)])];
  await store(deps.content, repository, contents, sources, work, signal);
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  const modules = findModules(whole, modulepath);
  log(
    `${files.length} files, ${bytes} bytes, ${modules.length} modules; ${work.read} read, ${work.stored} stored anew; modulepath ${modulepath.join(':')}`,
  );
  return {
    id,
    plugins,
    commit,
    files: files.length,
    bytes,
    contents,
    pluginContents: [...new Set([plugins, ...pluginEntries.map((file) => file.hash)])],
  };
}

/** Turns git's list into tree entries: what is not known by its blob id is read, hashed and stored. */
async function readRepository(
  deps: { state: string; content: DeployedContent },
  repository: Repository,
  listed: readonly RepositoryEntry[],
  sources: Map<ContentHash, Source>,
  work: Work,
  { signal, log }: { signal: AbortSignal; log: (line: string) => void },
): Promise<TreeEntry[]> {
  const known = await KnownBlobs.load(join(deps.state, 'git', 'known-blobs'));
  const unknown = listed.filter((entry) => entry.kind === 'file' && !known.get(entry.blob));
  const unknownSizes = new Map(
    unknown.map((entry) => [(entry as { blob: string }).blob, (entry as { size: number }).size]),
  );
  const small = [...unknownSizes].filter(([, size]) => size <= DEPLOY_FILE_IN_MEMORY_BYTES_MAX).map(([blob]) => blob);

  const puts = new AtMost(DEPLOY_FILES_AT_ONCE_MAX);
  for await (const { blob, bytes } of readBlobs(repository, small)) {
    signal.throwIfAborted();
    const hash = sha256(bytes);
    known.add(blob, { hash, size: bytes.length });
    work.read += 1;
    await puts.run(async () => {
      if (!(await deps.content.put(hash, bytes)).existed) work.stored += 1;
    });
  }
  await puts.all();
  for (const [blob, size] of unknownSizes) {
    if (size <= DEPLOY_FILE_IN_MEMORY_BYTES_MAX) continue;
    const hash = createHash('sha256');
    for await (const bytes of streamBlob(repository, blob)) hash.update(bytes as Buffer);
    known.add(blob, { hash: hash.digest('hex') as ContentHash, size });
    work.read += 1;
  }
  await known.save();

  const targets = new Map<string, Buffer>();
  const links = listed.filter((entry) => entry.kind === 'link');
  for (const { path, size } of links) {
    if (size > 4096) throw refuse(`The target of the link '${path}' is empty, too long or holds control characters`);
  }
  for await (const { blob, bytes } of readBlobs(repository, [...new Set(links.map((link) => link.blob))])) {
    targets.set(blob, Buffer.from(bytes));
  }

  return listed.map((entry): TreeEntry => {
    if (entry.kind === 'submodule') {
      log(`'${entry.path}' is a git submodule: its files are left out`);
      return { kind: 'directory', path: entry.path };
    }
    if (entry.kind === 'link') {
      return { kind: 'link', path: entry.path, target: parseLinkTarget(targets.get(entry.blob)!, entry.path) };
    }
    const { hash, size } = known.get(entry.blob)!;
    sources.set(hash, { blob: entry.blob, size });
    return { kind: 'file', path: entry.path, mode: entry.mode, hash, size };
  });
}

async function planned(
  folder: Folder,
  deps: CodeVersionSettings & { content: DeployedContent },
  environment: string,
): Promise<ModulepathEntry[]> {
  const conf = folder.find('environment.conf');
  let setting: string | undefined;
  if (conf.state === 'file') {
    if (conf.entry.size > ENVIRONMENT_CONF_BYTES_MAX) throw refuse('environment.conf is larger than 1 MiB');
    setting = readEnvironmentConf((await deps.content.read(conf.entry.hash)).toString('utf8')).get('modulepath');
  }
  return planModulepath(setting, { environment, basemodulepath: deps.basemodulepath });
}

const ENVIRONMENT_CONF_BYTES_MAX = 1024 * 1024;

function repoDirectories(folder: Folder, entry: ModulepathEntry, log: (line: string) => void): string[] {
  const paths = entry.pattern
    ? folder
        .directories()
        .filter((path) => matchesGlob(path, entry.path))
        .sort()
    : [entry.path];
  return paths.filter((path) => {
    const { state } = folder.find(path);
    if (state === 'outside') throw refuse(`The modulepath entry '${path}' leaves the control repo`);
    if (state !== 'directory') log(`The modulepath entry '${path}' is not in the control repo: left out`);
    return state === 'directory';
  });
}

function hashesOf(entries: readonly TreeEntry[]): ContentHash[] {
  return [...new Set(entries.flatMap((entry) => (entry.kind === 'file' ? [entry.hash] : [])))];
}

/** Puts what the content store lacks. */
async function store(
  content: DeployedContent,
  repository: Repository,
  hashes: readonly ContentHash[],
  sources: Map<ContentHash, Source>,
  work: Work,
  signal: AbortSignal,
): Promise<void> {
  const puts = new AtMost(DEPLOY_FILES_AT_ONCE_MAX);
  const put = async (hash: ContentHash, bytes: Readable | Buffer): Promise<void> => {
    if (!(await content.put(hash, bytes)).existed) work.stored += 1;
  };
  /** Small blobs are read by one git for all of them. */
  const small = new Map<string, ContentHash>();
  for (const hash of await content.missing(hashes)) {
    signal.throwIfAborted();
    const source = sources.get(hash);
    if (!source) throw new Error(`content ${hash} was collected while it was deployed`);
    if ('bytes' in source) await puts.run(() => put(hash, source.bytes));
    else if ('path' in source) await puts.run(() => put(hash, createReadStream(source.path)));
    else if (source.size <= DEPLOY_FILE_IN_MEMORY_BYTES_MAX) small.set(source.blob, hash);
    else await put(hash, streamBlob(repository, source.blob));
  }
  for await (const { blob, bytes } of readBlobs(repository, [...small.keys()])) {
    signal.throwIfAborted();
    await puts.run(() => put(small.get(blob)!, bytes));
  }
  await puts.all();
}

function sha256(bytes: Buffer): ContentHash {
  return createHash('sha256').update(bytes).digest('hex') as ContentHash;
}

function refuse(reason: string): CallboardError {
  return new CallboardError('CODE_DEPLOY_FAILED', { reason });
}
