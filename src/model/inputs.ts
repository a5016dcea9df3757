/**
 * What compiles read of a code version, as text, one *input* each (ruby/compile/PROTOCOL.md, "Reads"):
 *
 *   file PATH · kind PATH · mode PATH · list PATH · glob PATTERN · data PATH<TAB>KEY · option KEY ·
 *   name KIND NAME (also of modules) · modules
 *
 * and which of these differ between two code versions. Everything here is decided from the two tree manifests alone; only the
 * keys of changed data files and the metadata of changed modules need a look at bytes, which the caller takes.
 *
 * It may name too many inputs, never too few: what is named and was read costs a compile, what is not is not compiled (P6).
 */
import { posix } from 'node:path';
import type { ContentHash } from './ids.ts';
import type { TreeEntry } from './tree.ts';

/** The code of one version: its tree, and the directories of modules in it. */
export interface Code {
  entries: readonly TreeEntry[];
  /** Relative paths, as `.callboard/environment.json` lists them. */
  modulepath: readonly string[];
}

/** A file of both or of one of two code versions, with what its bytes are called in each. */
export interface ChangedFile {
  path: string;
  before: ContentHash | undefined;
  after: ContentHash | undefined;
}

/** What makes an input differ. */
export interface Cause {
  /** A file, link or directory of the code. */
  path: string;
  change: 'added' | 'removed' | 'changed';
}

export interface Difference {
  /** So much differs (the modulepath, a link to a directory) that everything may. */
  everything: boolean;
  /** Inputs that differ, but for globs and data keys. */
  inputs: Map<string, Cause>;
  /** Names that are in one of the two only: for globs. */
  names: string[];
  /** Changed files, under every path that leads to them: for data keys. */
  files: ChangedFile[];
  /** `metadata.json` of modules that are in both. */
  metadata: (ChangedFile & { module: string })[];
}

/** Links are followed through links this often. */
const LINKS_MAX = 8;

export function difference(before: Code, after: Code): Difference {
  const found: Difference = { everything: false, inputs: new Map(), names: [], files: [], metadata: [] };
  if (before.modulepath.join('\n') !== after.modulepath.join('\n')) found.everything = true;

  const [old, fresh] = [placesOf(before.entries), placesOf(after.entries)];
  const links = [...before.entries, ...after.entries].filter((entry) => entry.kind === 'link');
  for (const path of new Set([...old.keys(), ...fresh.keys()])) {
    const [was, is] = [old.get(path), fresh.get(path)];
    if (was && is && said(was) === said(is) && modeOf(was) === modeOf(is)) continue;
    if ((was?.kind === 'link' || is?.kind === 'link') && leadsToDirectory(path, [old, fresh])) found.everything = true;
    const cause: Cause = { path, change: was === undefined ? 'added' : is === undefined ? 'removed' : 'changed' };
    for (const name of allNames(path, links)) note(found, name, was, is, after.modulepath, cause);
  }
  return found;
}

/** A place in the tree; directories are there because of what is in them. */
type Place = TreeEntry;

function placesOf(entries: readonly TreeEntry[]): Map<string, Place> {
  const places = new Map<string, Place>();
  for (const entry of entries) {
    places.set(entry.path, entry);
    for (let path = posix.dirname(entry.path); path !== '.' && !places.has(path); path = posix.dirname(path))
      places.set(path, { kind: 'directory', path });
  }
  return places;
}

/** What a reader can see of a place without going into it, but for the mode. */
function said(place: Place): string {
  if (place.kind === 'file') return `file ${place.hash}`;
  return place.kind === 'link' ? `link ${place.target}` : 'directory';
}

function kindOf(place: Place | undefined): string {
  return place === undefined ? 'nothing' : place.kind;
}

function modeOf(place: Place | undefined): string {
  return place?.kind === 'file' ? `file ${place.mode}` : kindOf(place);
}

function leadsToDirectory(path: string, trees: Map<string, Place>[]): boolean {
  return trees.some((tree) => {
    let place = tree.get(path);
    for (let step = 0; place?.kind === 'link' && step < LINKS_MAX; step++)
      place = tree.get(posix.join(posix.dirname(place.path), place.target));
    return place?.kind === 'directory' || place?.kind === 'link';
  });
}

/** A path and every other that leads to it through links. */
function allNames(path: string, links: readonly Extract<TreeEntry, { kind: 'link' }>[]): string[] {
  if (links.length === 0) return [path];
  const names = new Set([path]);
  for (let round = 0; round < LINKS_MAX; round++) {
    const size = names.size;
    for (const { path: link, target } of links) {
      const meant = posix.join(posix.dirname(link), target);
      for (const name of [...names])
        if (name === meant || name.startsWith(`${meant}/`)) names.add(link + name.slice(meant.length));
    }
    if (names.size === size) break;
  }
  return [...names];
}

function note(
  found: Difference,
  path: string,
  was: Place | undefined,
  is: Place | undefined,
  modulepath: readonly string[],
  cause: Cause,
): void {
  const add = (...inputs: string[]): void => {
    for (const input of inputs) if (!found.inputs.has(input)) found.inputs.set(input, cause);
  };
  if (modeOf(was) !== modeOf(is)) add(`mode ${path}`);
  if (was && is && said(was) === said(is)) {
    found.files.push({ path, before: bytesOf(was), after: bytesOf(is) });
    return;
  }
  add(`file ${path}`);
  if (kindOf(was) !== kindOf(is)) {
    add(`kind ${path}`, `list ${path}`);
    found.names.push(path);
  }
  if (was === undefined || is === undefined) add(`list ${posix.dirname(path)}`);
  const place = modulePlace(path, modulepath);
  add(...definedNames(place.module, place.path).map((name) => `name ${name}`));
  if (place.module !== undefined && place.path === '' && kindOf(was) !== kindOf(is)) add(...moduleInputs(place.module));

  if (was?.kind === 'directory' || is?.kind === 'directory') return;
  // A link to a file has no bytes of its own; what it leads to has this name as well.
  const file = { path, before: bytesOf(was), after: bytesOf(is) };
  if (place.module !== undefined && place.path === 'metadata.json') {
    if (was && is) found.metadata.push({ ...file, module: place.module });
    else add(...moduleInputs(place.module));
  }
  found.files.push(file);
}

/** What differs with a module. */
export function moduleInputs(module: string): string[] {
  return ['modules', `name module ${module}`];
}

function bytesOf(place: Place | undefined): ContentHash | undefined {
  return place?.kind === 'file' ? place.hash : undefined;
}

/** The module that a path lies in, and the path within it; outside of modules, within the environment. */
function modulePlace(path: string, modulepath: readonly string[]): { module: string | undefined; path: string } {
  for (const directory of modulepath) {
    if (!path.startsWith(`${directory}/`)) continue;
    const rest = path.slice(directory.length + 1);
    const slash = rest.indexOf('/');
    return slash < 0 ? { module: rest, path: '' } : { module: rest.slice(0, slash), path: rest.slice(slash + 1) };
  }
  return { module: undefined, path };
}

/** Names that a file of this path, within a module or the environment, can define, each with its kind. */
function definedNames(module: string | undefined, path: string): string[] {
  const name = (match: RegExpExecArray | null): string | undefined => match?.[1]?.replaceAll('/', '::');
  const names: string[] = [];
  const own = module ?? 'environment';
  const add = (kind: string, ...found: (string | undefined)[]): void => {
    for (const each of found) if (each !== undefined) names.push(`${kind} ${each}`);
  };
  const puppetFunction = name(/^functions\/(.+)\.pp$/.exec(path));
  if (puppetFunction) add('function', `${own}::${puppetFunction}`, puppetFunction);
  add('function', name(/^lib\/puppet\/functions\/(.+)\.rb$/.exec(path)));
  add('function', /^lib\/puppet\/parser\/functions\/(.+)\.rb$/.exec(path)?.[1]);
  const puppetType = name(/^types\/(.+)\.pp$/.exec(path));
  if (puppetType === 'init_typeset') add('type', own);
  else if (puppetType) add('type', `${own}::${puppetType}`);
  add('type', name(/^lib\/puppet\/datatypes\/(.+)\.rb$/.exec(path)));
  add('resource_type', /^lib\/puppet\/type\/(.+)\.rb$/.exec(path)?.[1], /^\.resource_types\/(.+)\.pp$/.exec(path)?.[1]);
  add('provider', /^lib\/puppet\/provider\/([^/]+)\/.*\.rb$/.exec(path)?.[1]);
  add('require', /^lib\/(.+)\.rb$/.exec(path)?.[1]);
  return names;
}

/** Whether a name matches a pattern of Ruby's `Dir.glob`; in doubt it does. */
export function globMatches(pattern: string, name: string): boolean {
  return globExpression(pattern).test(name);
}

export function globExpression(pattern: string): RegExp {
  let expression = '';
  let braces = 0;
  for (let at = 0; at < pattern.length; at++) {
    const char = pattern[at]!;
    if (pattern.startsWith('**/', at)) {
      expression += '(?:.*/)?';
      at += 2;
    } else if (char === '*') expression += '[^/]*';
    else if (char === '?') expression += '[^/]';
    else if (char === '[') {
      const end = pattern.indexOf(']', at + 2);
      expression += end < 0 ? '\\[' : '[^/]';
      if (end > 0) at = end;
    } else if (char === '{') {
      braces += 1;
      expression += '(?:';
    } else if (char === '}' && braces > 0) {
      braces -= 1;
      expression += ')';
    } else if (char === ',' && braces > 0) expression += '|';
    else expression += char.replace(/[\\^$.|+()\]}]/g, '\\$&');
  }
  return new RegExp(`^${expression}${')'.repeat(braces)}/?$`, 's');
}

/** Root keys of a data file with the digest of each value; null: no such keys, so the file counts as a whole. */
export type DataKeys = Readonly<Record<string, string | LookupOptions>> | null;

/** Digests of `lookup_options` that can be taken apart. */
export interface LookupOptions {
  whole: string;
  /** Entries that are patterns, in their order. */
  patterns: string;
  /** The modules that the other entries' names begin with. */
  modules: string;
  keys: Readonly<Record<string, string>>;
}

/** An input that counts for those who have read one of `options` as well. */
export interface ChangedOptions {
  input: string;
  options: string[];
}

const OPTIONS = 'lookup_options';

/** The data inputs that differ between two states of a file: single keys, or all of the file's. */
export function changedKeys(
  path: string,
  before: DataKeys,
  after: DataKeys,
): { inputs: string[]; options: ChangedOptions } | { prefix: string } {
  if (before === null || after === null) return { prefix: `data ${path}\t` };
  const whole = (value: DataKeys, key: string): string | undefined => {
    const digest = value![key];
    return key === OPTIONS && typeof digest === 'object' ? digest.whole : (digest as string | undefined);
  };
  const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
  const changed = [...keys].filter((key) => whole(before, key) !== whole(after, key));
  const input = (key: string): string => `data ${path}\t${key}`;
  const options = { input: input(`${OPTIONS}\tpatterns`), options: [] as string[] };
  if (!changed.includes(OPTIONS)) return { inputs: changed.map(input), options };

  const [old, fresh] = [before[OPTIONS], after[OPTIONS]];
  // Puppet checks the types of several files' options when it merges them, so that even an empty hash more can make it fail.
  if (typeof old !== 'object' || typeof fresh !== 'object')
    return { inputs: [...changed.map(input), options.input], options };
  if (old.patterns !== fresh.patterns) changed.push(`${OPTIONS}\tpatterns`);
  if (old.modules !== fresh.modules) changed.push(`${OPTIONS}\tmodules`);
  const names = new Set([...Object.keys(old.keys), ...Object.keys(fresh.keys)]);
  for (const name of names) if (old.keys[name] !== fresh.keys[name]) options.options.push(`option ${name}`);
  return { inputs: changed.map(input), options };
}

/** Whether two states of a module's metadata differ in what a compile can see of it. */
export function metadataDiffers(before: string, after: string): boolean {
  return seen(before) !== seen(after);
}

/** Without one of these Puppet takes a module for one without metadata. */
const REQUIRED_METADATA = ['source', 'author', 'version', 'license', 'dependencies'];

function seen(text: string): string {
  try {
    const all = JSON.parse(text) as Record<string, unknown>;
    const { name, dependencies, data_provider } = all;
    const missing = REQUIRED_METADATA.filter((key) => (all[key] ?? null) === null);
    return JSON.stringify([name, neededModules(dependencies), data_provider, missing, Object.keys(all).length === 0]);
  } catch {
    return `not JSON: ${text}`;
  }
}

/** Puppet's compiler looks at the names of the modules that a module needs, never at the versions. */
function neededModules(dependencies: unknown): unknown {
  const isNamed = (each: unknown): each is { name: string } =>
    typeof each === 'object' && each !== null && typeof (each as { name?: unknown }).name === 'string';
  return Array.isArray(dependencies) && dependencies.every(isNamed)
    ? dependencies.map(({ name }) => name)
    : dependencies;
}

/** Inputs that lie together: a module, a directory of data, and so on. Keeps what nodes share apart from what they do not. */
export function parts(inputs: readonly string[]): string[][] {
  return [...Map.groupBy(inputs, partOf).values()];
}

function partOf(input: string): string {
  const [word, rest = ''] = splitOnce(input, ' ');
  if (word === 'name' || word === 'modules') return word;
  if (word === 'option') return `option ${rest.split('::')[0]}`;
  const path = splitOnce(rest, '\t')[0]!;
  if (path.startsWith('.callboard/modulepath/')) return path.split('/').slice(0, 4).join('/');
  const directories = path.split('/').slice(0, -1);
  // Data of single nodes lies in directories of its own, below data of everybody.
  return directories[0] === 'modules' || directories[0] === 'site' || directories[0] === 'site-modules'
    ? directories.slice(0, 2).join('/')
    : directories.join('/');
}

function splitOnce(text: string, separator: string): [string, string?] {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}
