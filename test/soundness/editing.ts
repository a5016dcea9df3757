/** How kinds of changes are listed, and what they all find and edit in a world. */
import type { Random } from './random.ts';
import { fileOf, type Json, type Machine, type World } from './world.ts';

export interface Kind {
  name: string;
  /** How often it comes, beside the others. */
  weight: number;
  /** It changes nothing but comments and white space. */
  remark?: true;
  mutate(world: World, random: Random): string | undefined;
}

/** A list of kinds, and the function that adds one to it. */
export function kindsOf(): { kinds: Kind[]; kind: (...of: [string, number, Kind['mutate'], true?]) => void } {
  const kinds: Kind[] = [];
  return {
    kinds,
    kind(name, weight, mutate, remark) {
      kinds.push({ name, weight, mutate, ...(remark ? { remark } : {}) });
    },
  };
}

export const SITE = 'site-modules/';
/** Directories of modules whose manifests and templates are edited. */
export const EDITED = /^(site-modules\/[^/]+|\.callboard\/modulepath\/0\/(ntp|ssh|mysql|placement|apache))\//;

export function paths(world: World, match: RegExp): string[] {
  return [...world.files.keys()].filter((path) => match.test(path)).sort();
}

export function textOf(world: World, path: string): string {
  const file = world.files.get(path);
  return file && 'bytes' in file ? file.bytes.toString() : '';
}

export function write(world: World, path: string, text: string): void {
  const before = world.files.get(path);
  world.files.set(path, fileOf(text, before && 'bytes' in before ? before.mode : '644'));
}

/** Edits a file; undefined where the edit changes nothing. */
export function edit(world: World, path: string, change: (text: string) => string): string | undefined {
  const before = textOf(world, path);
  const after = change(before);
  if (after === before) return undefined;
  write(world, path, after);
  return path;
}

/** Puts a file there, or takes it away where it is. */
export function toggle(world: World, path: string, text: string): string {
  if (world.files.delete(path)) return `${path} vanishes`;
  write(world, path, text);
  return `${path} appears`;
}

export function machine(world: World, random: Random): Machine {
  return random.pick([...world.machines.values()]);
}

/** Replaces one match of several, chosen at random. */
export function replaceOne(
  text: string,
  match: RegExp,
  random: Random,
  by: (found: RegExpMatchArray) => string,
): string {
  const found = [...text.matchAll(match)];
  if (found.length === 0) return text;
  const one = random.pick(found);
  return text.slice(0, one.index) + by(one) + text.slice(one.index + one[0].length);
}

/** Another value of the same kind, or a word. */
export function another(value: Json | undefined, random: Random): Json {
  if (typeof value === 'number') return value + 1 + random.below(50);
  if (typeof value === 'boolean') return !value;
  return random.word();
}
