/**
 * Which of the things that a compile read are different under another code version. Pure: the two trees and the data files'
 * keys are handed in. How inputs are written: "Reads" in ruby/compile/PROTOCOL.md. An input of the kind `name`, which is
 * about every file that could define a name, is not looked at: what defines it is among the files that were read.
 */
import { matchesGlob } from 'node:path';
import type { TreeEntry } from '../model/tree.ts';
import { isSame, written } from './exact.ts';

export type PathChange = 'added' | 'removed' | 'changed';

export interface ChangedInput {
  /** As in the read set, or `facts` and a path. */
  input: string;
  change: PathChange;
  /** The path in the code that makes it different. */
  path?: string;
}

/** Paths that are different in two code versions. */
export function treeDifference(from: Iterable<TreeEntry>, to: Iterable<TreeEntry>): Map<string, PathChange> {
  const older = new Map([...from].map((entry) => [entry.path, entry]));
  const changes = new Map<string, PathChange>();
  for (const entry of to) {
    const before = older.get(entry.path);
    older.delete(entry.path);
    if (!before) changes.set(entry.path, 'added');
    else if (written(before) !== written(entry)) changes.set(entry.path, 'changed');
  }
  for (const path of older.keys()) changes.set(path, 'removed');
  return changes;
}

/** The root keys of a data file; undefined where it has none that can be told apart, or is not there. */
export type DataKeys = Readonly<Record<string, unknown>> | undefined;
export type DataFiles = ReadonlyMap<string, { from: DataKeys; to: DataKeys }>;

/** Changed data files that some input asks for a key of. */
export function changedDataPaths(inputs: readonly string[], changes: ReadonlyMap<string, PathChange>): string[] {
  const paths = inputs.flatMap((input) => dataInput(input)?.path ?? []);
  return [...new Set(paths)].filter((path) => changes.has(path));
}

/** `data PATH<TAB>KEY` taken apart. */
export function dataInput(input: string): { path: string; key: string } | undefined {
  const tab = input.indexOf('\t');
  return input.startsWith('data ') && tab > 0 ? { path: input.slice(5, tab), key: input.slice(tab + 1) } : undefined;
}

export function changedInputs(
  inputs: readonly string[],
  changes: ReadonlyMap<string, PathChange>,
  data: DataFiles,
): ChangedInput[] {
  const gone = [...changes].filter(([, change]) => change !== 'changed').map(([path]) => path);
  return inputs.flatMap((input): ChangedInput[] => {
    const path = pathBehind(input, changes, data, gone);
    return path === undefined ? [] : [{ input, change: changes.get(path)!, path }];
  });
}

function pathBehind(
  input: string,
  changes: ReadonlyMap<string, PathChange>,
  data: DataFiles,
  gone: readonly string[],
): string | undefined {
  const key = dataInput(input);
  if (key) {
    const file = data.get(key.path);
    if (!changes.has(key.path)) return undefined;
    if (file?.from && file.to && isSame(valueIn(file.from, key.key), valueIn(file.to, key.key))) return undefined;
    return key.path;
  }
  const space = input.indexOf(' ');
  const [kind, about] = space < 0 ? [input, ''] : [input.slice(0, space), input.slice(space + 1)];
  if (kind === 'file') return changes.has(about) ? about : undefined;
  if (kind === 'kind') return gone.find((path) => path === about || path.startsWith(`${about}/`));
  if (kind === 'list') return gone.find((path) => about === '' || about === '.' || path.startsWith(`${about}/`));
  if (kind === 'glob') return gone.find((path) => matchesGlob(path, about));
  if (kind === 'modules') return [...changes.keys()].find((path) => /(^|\/)metadata\.json$/.test(path));
  if (kind === 'name' && about.startsWith('module ')) {
    const module = `/${about.slice('module '.length)}/`;
    const isIts = (path: string): boolean => `/${path}`.includes(module);
    return [...changes.keys()].find((path) => isIts(path) && path.endsWith('/metadata.json')) ?? gone.find(isIts);
  }
  return undefined;
}

function valueIn(keys: NonNullable<DataKeys>, key: string): unknown {
  return Object.hasOwn(keys, key) ? { value: keys[key] } : null;
}

/** Paths of facts that were read and whose values differ. `data` is as in a read set. */
export function changedFacts(data: readonly (string | number)[][], from: unknown, to: unknown): ChangedInput[] {
  return data.flatMap(([root, ...path]): ChangedInput[] => {
    if (root !== 'facts') return [];
    const [a, b] = [at(from, path), at(to, path)];
    if (isSame(a, b)) return [];
    const change = a === undefined ? 'added' : b === undefined ? 'removed' : 'changed';
    return [{ input: ['facts', ...path].join('.'), change }];
  });
}

/** The value at a path; undefined where there is none. */
export function at(value: unknown, path: readonly (string | number)[]): unknown {
  let found = value;
  for (const step of path) {
    if (typeof found !== 'object' || found === null || !Object.hasOwn(found, step)) return undefined;
    found = (found as Record<string | number, unknown>)[step];
  }
  return found;
}

/**
 * Whether an input is likely the one behind a resource: the manifest that declares it or what contains it, anything of their
 * modules, or data of their classes.
 */
export function isNear(
  changed: ChangedInput,
  resource: { files: readonly string[]; classes: readonly string[] },
): boolean {
  if (changed.path !== undefined && resource.files.includes(changed.path)) return true;
  const key = dataInput(changed.input)?.key;
  if (key !== undefined) return resource.classes.some((name) => key.startsWith(`${name}::`));
  const roots = [...resource.classes].map((name) => name.split('::')[0]!).filter((name) => name !== 'main');
  const inModules = resource.files.flatMap((file) => /^(.*\/)?(?=(manifests|functions)\/)/.exec(file)?.[1] ?? []);
  const { path = '' } = changed;
  return inModules.some((root) => path.startsWith(root)) || roots.some((root) => `/${path}`.includes(`/${root}/`));
}
