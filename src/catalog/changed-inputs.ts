/**
 * Which of the things that a compile read are different under another code version. Pure: the difference of the two trees and
 * the data files' keys are handed in. How inputs are written: "Reads" in ruby/compile/PROTOCOL.md.
 */
import { type Cause, type Difference, globMatches } from '../model/inputs.ts';
import { isSame } from './exact.ts';

export interface ChangedInput {
  /** As in the read set, or `facts` and a path. */
  input: string;
  change: Cause['change'];
  /** The path in the code that makes it different. */
  path?: string;
}

/** The root keys of a data file; undefined where it has none that can be told apart, or is not there. */
export type DataKeys = Readonly<Record<string, unknown>> | undefined;
export type DataFiles = ReadonlyMap<string, { from: DataKeys; to: DataKeys }>;

/** Changed data files that some input asks for a key of. */
export function changedDataPaths(inputs: readonly string[], found: Difference): string[] {
  const paths = inputs.flatMap((input) => dataInput(input)?.path ?? []);
  return [...new Set(paths)].filter((path) => found.inputs.has(`file ${path}`));
}

/** `data PATH<TAB>KEY` taken apart; of lookup_options it may be a part that was read. */
export function dataInput(input: string): { path: string; key: string; part?: string } | undefined {
  if (!input.startsWith('data ')) return undefined;
  const [path = '', key, part] = input.slice('data '.length).split('\t');
  return key === undefined ? undefined : { path, key, ...(part !== undefined && { part }) };
}

export function changedInputs(inputs: readonly string[], found: Difference, data: DataFiles): ChangedInput[] {
  const options = new Set(
    inputs.flatMap((input) => (input.startsWith('option ') ? input.slice('option '.length) : [])),
  );
  const changed = inputs.flatMap((input): ChangedInput[] => {
    const cause = causeOf(input, found, data, options);
    return cause ? [{ input: input.split('\t', 2).join('\t'), ...cause }] : [];
  });
  return [...new Map(changed.map((each) => [each.input, each])).values()];
}

/** All files and links that differ. */
export function changedFiles(found: Difference): ChangedInput[] {
  return found.files.flatMap(({ path }): ChangedInput[] => {
    const input = [`file ${path}`, `mode ${path}`].find((each) => found.inputs.has(each));
    const cause = input === undefined ? undefined : found.inputs.get(input);
    return input !== undefined && cause?.path === path ? [{ input, ...cause }] : [];
  });
}

function causeOf(input: string, found: Difference, data: DataFiles, options: ReadonlySet<string>): Cause | undefined {
  const key = dataInput(input);
  if (key) {
    const file = data.get(key.path);
    const seen = (keys: NonNullable<DataKeys>): unknown =>
      key.part === undefined ? valueIn(keys, key.key) : chosen(valueIn(keys, key.key), options);
    if (file?.from && file.to && isSame(seen(file.from), seen(file.to))) return undefined;
    return found.inputs.get(`file ${key.path}`);
  }
  if (input.startsWith('glob ')) {
    const path = found.names.find((name) => globMatches(input.slice('glob '.length), name));
    return path === undefined ? undefined : found.inputs.get(`file ${path}`);
  }
  return found.inputs.get(input);
}

function valueIn(keys: NonNullable<DataKeys>, key: string): { value: unknown } | null {
  return Object.hasOwn(keys, key) ? { value: keys[key] } : null;
}

/** Of lookup_options the entries that were asked for. */
function chosen(found: { value: unknown } | null, options: ReadonlySet<string>): unknown {
  if (typeof found?.value !== 'object' || found.value === null) return found;
  return Object.entries(found.value).filter(([name]) => name.startsWith('^') || options.has(name));
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
