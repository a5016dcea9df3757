/**
 * Where the values of Hiera's keys came from, as far as what was read tells: a compile's read set names each data file that
 * was asked for a key, and hiera.yaml says in which order they are asked. Pure. The first file that has the key is the
 * value's origin, unless the lookup merges: then the others that have it are part of it, so they are told too.
 */
import { parse } from 'yaml';
import { type DataKeys, dataInput } from './changed-inputs.ts';

export interface KeyOrigin {
  key: string;
  /** The first file, in Hiera's order, that has the key; null where none has: the default of the code holds. */
  from: string | null;
  /** Every file that was asked, in Hiera's order. */
  files: { path: string; has_key: boolean }[];
}

/** `configs`: hiera.yaml texts by their directories in the code version, the environment's by ''. */
export function keyOrigins(
  inputs: readonly string[],
  configs: ReadonlyMap<string, string>,
  keysOf: (path: string) => DataKeys,
): KeyOrigin[] {
  const levels = [...configs].flatMap(([directory, text]) => levelsOf(directory, text));
  const rank = (path: string): number => {
    const found = levels.findIndex((level) => level.test(path));
    return found < 0 ? levels.length : found;
  };
  const asked = Map.groupBy(
    inputs.flatMap((input) => dataInput(input) ?? []),
    (each) => each.key,
  );
  asked.delete('lookup_options');
  return [...asked].map(([key, each]) => {
    const paths = [...new Set(each.map(({ path }) => path))].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
    const files = paths.map((path) => ({ path, has_key: Object.hasOwn(keysOf(path) ?? {}, key) }));
    return { key, from: files.find((file) => file.has_key)?.path ?? null, files };
  });
}

/** Each path of the hierarchy as a pattern, in order; the environment's layer comes before the modules'. */
function levelsOf(directory: string, text: string): RegExp[] {
  let config: { defaults?: Level; hierarchy?: Level[] } | null;
  try {
    config = parse(text);
  } catch {
    return [];
  }
  const levels = Array.isArray(config?.hierarchy) ? config.hierarchy : [];
  return levels.flatMap((level) => {
    const datadir = [directory, level?.datadir ?? config?.defaults?.datadir ?? 'data'].filter((each) => each !== '');
    const named = [level?.path, level?.paths, level?.glob, level?.globs, level?.mapped_paths?.[2]].flat();
    return named
      .filter((path) => typeof path === 'string')
      .map((path) => new RegExp(`^${pattern([...datadir, path].join('/'))}$`));
  });
}

interface Level {
  datadir?: string;
  path?: string;
  paths?: string[];
  glob?: string;
  globs?: string[];
  mapped_paths?: string[];
}

/** `%{…}` is anything at all, `*` anything in a name, `**` any directories. */
function pattern(path: string): string {
  return path
    .split(/(%\{[^}]*\}|\*\*|\*|\?)/)
    .map((part) => {
      if (part.startsWith('%{') || part === '**') return '.*';
      if (part === '*') return '[^/]*';
      return part === '?' ? '[^/]' : part.replace(/[.+^${}()|[\]\\]/g, '\\$&');
    })
    .join('');
}

/** The root keys of a data file's text; undefined where it cannot be read as any. */
export function dataKeys(path: string, text: string): DataKeys {
  try {
    const value: unknown = path.endsWith('.json') ? JSON.parse(text) : parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as DataKeys) : undefined;
  } catch {
    return undefined;
  }
}
