/**
 * The server's own modules: what a modulepath names outside of the control repo, taken into the code version below
 * `.callboard/modulepath/<n>/`, so that compiles need no server.
 */
import { createHash } from 'node:crypto';
import { readdirSync, realpathSync, statSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContentHash } from '../model/ids.ts';
import type { TreeEntry } from '../model/tree.ts';
import { KnownFiles } from './known-hashes.ts';
import { isModuleName, type ModulepathEntry } from './modulepath.ts';
import { CALLBOARD_FOLDER } from './path.ts';
import { walk } from './walk.ts';

export interface ServerModules {
  /** The directories of the code version that each entry's modules are in, in order. */
  directories: string[][];
  entries: TreeEntry[];
  /** Where the bytes lie. */
  files: Map<ContentHash, string>;
  /** How many files had to be read. */
  read: number;
  /** For the log of the deploy. */
  lines: string[];
}

/** Reads the modules that modulepath entries name on this server; asked for the same entries again, it reads them once. */
export function serverModules(
  state: string,
  signal: AbortSignal,
): (entries: readonly ModulepathEntry[]) => Promise<ServerModules> {
  const reading = new Map<string, Promise<ServerModules>>();
  return (entries) => {
    const key = JSON.stringify(entries);
    const begun = reading.get(key) ?? read(state, entries, signal);
    reading.set(key, begun);
    return begun;
  };
}

async function read(state: string, entries: readonly ModulepathEntry[], signal: AbortSignal): Promise<ServerModules> {
  const modules: ServerModules = { directories: [], entries: [], files: new Map(), read: 0, lines: [] };
  const directories: string[] = [];
  for (const entry of entries) {
    const found = await findDirectories(entry, modules.lines);
    modules.directories.push(found.map((_, at) => `${CALLBOARD_FOLDER}/modulepath/${directories.length + at}`));
    directories.push(...found);
  }

  const name = createHash('sha256').update(directories.join(':')).digest('hex').slice(0, 16);
  const known = await KnownFiles.load(join(state, 'git', `known-files-${name}`));
  const names = directories.map(moduleNames);
  const mayFollowInto = new Set(directories.map((path) => realpathSync(path)));
  for (const [number, directory] of directories.entries())
    for (const module of names[number]!.valid) mayFollowInto.add(realpathSync(join(directory, module)));
  for (const [number, directory] of directories.entries()) {
    const { valid, invalid } = names[number]!;
    for (const module of invalid)
      modules.lines.push(`'${join(directory, module)}' has no module's name: left out, as Puppet does`);
    for (const module of valid) {
      const walked = await walk(join(directory, module), {
        into: `${CALLBOARD_FOLDER}/modulepath/${number}/${module}`,
        mayFollowInto: [...mayFollowInto],
        signal,
        known,
        onFile: (hash, path) => {
          if (!modules.files.has(hash)) modules.files.set(hash, path);
        },
        onRead: () => {
          modules.read += 1;
        },
      });
      for (const entry of walked) modules.entries.push(entry);
    }
  }
  await known.save();
  return modules;
}

async function findDirectories(entry: ModulepathEntry, lines: string[]): Promise<string[]> {
  const paths = entry.pattern ? (await Array.fromAsync(glob(entry.path))).sort() : [entry.path];
  const there: string[] = [];
  for (const path of paths) {
    if (!isDirectory(path)) lines.push(`The modulepath entry '${path}' is not on this server: left out`);
    else if (moduleNames(path).valid.length > 0) there.push(path);
    else lines.push(`The modulepath entry '${path}' holds no module: left out`);
  }
  return there;
}

function moduleNames(directory: string): { valid: string[]; invalid: string[] } {
  const names = readdirSync(directory)
    .sort()
    .filter((name) => isDirectory(join(directory, name)));
  const { valid = [], invalid = [] } = Object.groupBy(names, (name) => (isModuleName(name) ? 'valid' : 'invalid'));
  return { valid, invalid };
}

/** On this thread, where it takes some ten microseconds; what is asked of a thread waits for git's processes to be started. */
function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
