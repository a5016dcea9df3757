/**
 * Which inputs differ between two trees, against an oracle that evaluates each input in both trees by itself: it lists names and
 * follows links step by step, as a compile would, and knows nothing of differences.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { dataDigest, volatilePath } from '../../src/compile/data.ts';
import type { ContentHash } from '../../src/model/ids.ts';
import {
  type Code,
  changedKeys,
  type DataKeys,
  difference,
  globMatches,
  metadataDiffers,
  parts,
} from '../../src/model/inputs.ts';
import type { TreeEntry } from '../../src/model/tree.ts';

const MODULEPATH = ['modules', 'site'];
const NAMES = [
  'manifests/site.pp',
  'manifests/more.pp',
  'data/common.yaml',
  'data/nodes/a.yaml',
  'hiera.yaml',
  'modules/m/manifests/init.pp',
  'modules/m/functions/f.pp',
  'modules/m/types/init_typeset.pp',
  'modules/m/types/t.pp',
  'modules/m/lib/puppet/functions/m/g.rb',
  'modules/m/lib/puppet/type/thing.rb',
  'modules/m/lib/puppet/provider/thing/one.rb',
  'modules/m/lib/puppet_x/m/aid.rb',
  'modules/m/files/tree/a',
  'modules/m/metadata.json',
  'site/n/lib/puppet/parser/functions/old.rb',
  'site/n/files/b',
  'shared/files/c',
];
const LINKS = [
  { path: 'modules/m/files/linked', target: '../../../shared/files/c' },
  { path: 'modules/linked', target: '../site/n' },
];

type File = { hash: number; mode: '644' | '755' } | undefined;
const entriesOf = (files: File[], links: boolean[]): TreeEntry[] => [
  ...files.flatMap((file, at): TreeEntry[] =>
    file ? [{ kind: 'file', path: NAMES[at]!, mode: file.mode, hash: String(file.hash) as ContentHash, size: 1 }] : [],
  ),
  ...links.flatMap((there, at): TreeEntry[] => (there ? [{ kind: 'link', ...LINKS[at]! }] : [])),
];
const file = fc.option(fc.record({ hash: fc.nat(3), mode: fc.constantFrom('644' as const, '755' as const) }), {
  nil: undefined,
});
const tree = fc.record({
  files: fc.array(file, { minLength: NAMES.length, maxLength: NAMES.length }),
  links: fc.array(fc.boolean(), { minLength: LINKS.length, maxLength: LINKS.length }),
});
/** A second tree that is mostly the first. */
const pair = tree.chain(({ files, links }) =>
  fc.record({
    before: fc.constant(entriesOf(files, links)),
    after: fc
      .record({
        at: fc.array(fc.nat(NAMES.length - 1), { maxLength: 3 }),
        to: fc.array(file, { minLength: 3, maxLength: 3 }),
        flip: fc.option(fc.nat(LINKS.length - 1), { freq: 4 }),
      })
      .map(({ at, to, flip }) => {
        const changed = [...files];
        for (const [index, place] of at.entries()) changed[place] = to[index];
        return entriesOf(
          changed,
          links.map((there, index) => (index === flip ? !there : there)),
        );
      }),
  }),
);

/** A file system over entries, for the oracle. */
class Disk {
  readonly #entries: readonly TreeEntry[];
  constructor(entries: readonly TreeEntry[]) {
    this.#entries = entries;
  }

  /** The path without links in it; undefined where it leads nowhere. `last`: whether its last step is followed. */
  resolve(path: string, last = true): string | undefined {
    let at = '';
    const steps = path.split('/');
    for (let index = 0, hops = 0; index < steps.length; index++) {
      const step = steps[index]!;
      if (step === '..') at = at.split('/').slice(0, -1).join('/');
      else at = at ? `${at}/${step}` : step;
      const link = this.#entries.find((entry) => entry.kind === 'link' && entry.path === at);
      if (link?.kind === 'link' && (last || index < steps.length - 1)) {
        if (++hops > 8) return undefined;
        steps.splice(index + 1, 0, ...link.target.split('/'));
        at = at.split('/').slice(0, -1).join('/');
      }
    }
    return at;
  }

  lstat(path: string): string | undefined {
    const at = this.resolve(path, false);
    const entry = this.#entries.find((each) => each.path === at);
    if (entry) return entry.kind;
    return this.#entries.some((each) => each.path.startsWith(`${at}/`)) ? 'directory' : undefined;
  }

  read(path: string): string | undefined {
    const at = this.resolve(path);
    const entry = this.#entries.find((each) => each.path === at);
    return entry?.kind === 'file' ? entry.hash : undefined;
  }

  mode(path: string): string | undefined {
    const entry = this.#entries.find((each) => each.path === this.resolve(path));
    return entry?.kind === 'file' ? entry.mode : this.lstat(path);
  }

  list(path: string): string {
    const at = this.resolve(path);
    const names = this.#entries
      .filter((entry) => entry.path.startsWith(`${at}/`))
      .map((entry) => entry.path.slice(at!.length + 1).split('/')[0]);
    return [...new Set(names)].sort().join(' ') + (this.lstat(path) ?? 'nothing');
  }

  get paths(): string[] {
    return this.#entries.map((entry) => entry.path);
  }
}

const NAMED: Record<string, string[]> = {
  'name function m::f': ['modules/m/functions/f.pp'],
  'name type m': ['modules/m/types/init_typeset.pp'],
  'name type m::t': ['modules/m/types/t.pp'],
  'name function m::g': ['modules/m/lib/puppet/functions/m/g.rb'],
  'name resource_type thing': ['modules/m/lib/puppet/type/thing.rb'],
  'name provider thing': ['modules/m/lib/puppet/provider/thing/one.rb'],
  'name require puppet_x/m/aid': ['modules/m/lib/puppet_x/m/aid.rb'],
  'name function old': [
    'site/n/lib/puppet/parser/functions/old.rb',
    'modules/linked/lib/puppet/parser/functions/old.rb',
  ],
  modules: ['modules/m/metadata.json'],
  'name module m': ['modules/m/metadata.json'],
};
const MODULES = ['modules', 'name module m', 'name module n', 'name module linked'];
const READABLE = [...NAMES, 'modules/m/files/linked', 'modules/linked/files/b', 'data/nodes/b.yaml'];
const LISTED = [
  'modules',
  'modules/m',
  'modules/m/files',
  'modules/linked/files',
  'data/nodes',
  'site',
  'shared/files',
];

function value(disk: Disk, input: string): unknown {
  const found = NAMED[input]?.map((path) => disk.read(path));
  // Another metadata.json is looked at by its bytes, elsewhere.
  if (input === 'modules') return [found![0] !== undefined, disk.list('modules'), disk.list('site')];
  if (input.startsWith('name module ')) {
    const name = input.slice('name module '.length);
    return [found?.[0] !== undefined, ...MODULEPATH.map((directory) => disk.lstat(`${directory}/${name}`))];
  }
  if (found) return found;
  const [word, rest] = [input.slice(0, input.indexOf(' ')), input.slice(input.indexOf(' ') + 1)];
  if (word === 'file') return disk.read(rest);
  if (word === 'kind') return disk.lstat(rest);
  if (word === 'mode') return [disk.lstat(rest), disk.mode(rest)];
  if (word === 'list') return disk.list(rest);
  return disk.paths.filter((path) => globMatches(rest, path)).sort();
}

test('an input that a compile would see differ is among the changed ones', () => {
  const inputs = [
    ...READABLE.flatMap((path) => [`file ${path}`, `kind ${path}`, `mode ${path}`]),
    ...LISTED.map((path) => `list ${path}`),
    ...Object.keys(NAMED),
    ...MODULES,
    'glob manifests/**/*.pp',
    'glob data/*.yaml',
    'glob modules/*/lib/**/*.rb',
  ];
  fc.assert(
    fc.property(pair, ({ before, after }) => {
      const code = (entries: TreeEntry[]): Code => ({ entries, modulepath: MODULEPATH });
      const found = difference(code(before), code(after));
      if (found.everything) return;
      const [old, fresh] = [new Disk(before), new Disk(after)];
      for (const input of inputs) {
        if (JSON.stringify(value(old, input)) === JSON.stringify(value(fresh, input))) continue;
        const named = input.startsWith('glob ')
          ? found.names.some((name) => globMatches(input.slice(5), name))
          : found.inputs.has(input);
        expect(named, `${input} in\n${JSON.stringify(before)}\n${JSON.stringify(after)}`).toBe(true);
      }
      if (JSON.stringify(before) === JSON.stringify(after)) expect(found.inputs.size).toBe(0);
    }),
    { numRuns: 2000 },
  );
});

test('an edit of one file is an edit of that file and of what it defines', () => {
  const before: TreeEntry[] = NAMES.map((path) => ({
    kind: 'file',
    path,
    mode: '644',
    hash: 'a' as ContentHash,
    size: 1,
  }));
  const edited = (path: string) =>
    difference(
      { entries: before, modulepath: MODULEPATH },
      {
        entries: before.map((entry) => (entry.path === path ? { ...entry, hash: 'b' as ContentHash } : entry)),
        modulepath: MODULEPATH,
      },
    );
  expect([...edited('data/common.yaml').inputs.keys()]).toEqual(['file data/common.yaml']);
  expect([...edited('modules/m/functions/f.pp').inputs.keys()]).toEqual([
    'file modules/m/functions/f.pp',
    'name function m::f',
    'name function f',
  ]);
  const executable = difference(
    { entries: before, modulepath: MODULEPATH },
    {
      entries: before.map((entry) => (entry.kind === 'file' ? { ...entry, mode: '755' } : entry)),
      modulepath: MODULEPATH,
    },
  );
  expect([...executable.inputs.keys()], 'a mode is nothing else').toEqual(NAMES.map((path) => `mode ${path}`));
  expect(edited('modules/m/files/tree/a').names).toEqual([]);
  expect(edited('modules/m/metadata.json').metadata).toHaveLength(1);
});

test('another modulepath, and a link to a directory that changed, concern everything', () => {
  const entries: TreeEntry[] = [
    { kind: 'file', path: 'site/n/files/b', mode: '644', hash: 'a' as ContentHash, size: 1 },
  ];
  const code = (more: TreeEntry[], modulepath = MODULEPATH): Code => ({ entries: [...entries, ...more], modulepath });
  expect(difference(code([]), code([], ['site', 'modules'])).everything).toBe(true);
  expect(difference(code([]), code([{ kind: 'link', path: 'modules/linked', target: '../site/n' }])).everything).toBe(
    true,
  );
});

test('of a data file those keys count whose values differ; of one that does not parse, all', () => {
  expect(changedKeys('d.yaml', { a: '1', b: '1' }, { b: '1', c: '1' })).toEqual({
    inputs: ['data d.yaml\ta', 'data d.yaml\tc'],
    options: expect.objectContaining({ options: [] }),
  });
  expect(changedKeys('d.yaml', { a: '1' }, null)).toEqual({ prefix: 'data d.yaml\t' });
});

test('of lookup_options those entries count that differ, and all where that cannot be said', () => {
  const options = (over: object = {}) => ({
    lookup_options: { whole: JSON.stringify(over), patterns: 'p', modules: 'm', keys: { a: '1', b: '1' }, ...over },
  });
  const changed = (before: DataKeys, after: DataKeys) => {
    const found = changedKeys('d', before, after);
    return 'prefix' in found ? found : [found.inputs.map((input) => input.split('\t').at(-1)), found.options.options];
  };
  expect(changed(options(), options({ keys: { a: '2', c: '1' } }))).toEqual([
    ['lookup_options'],
    ['option a', 'option b', 'option c'],
  ]);
  expect(changed(options(), options({ patterns: 'q' }))).toEqual([['lookup_options', 'patterns'], []]);
  expect(changed(options(), options({ modules: 'q' }))).toEqual([['lookup_options', 'modules'], []]);
  expect(changed(options(), { lookup_options: 'x' })).toEqual([['lookup_options', 'patterns'], []]);
  expect(changed({ lookup_options: 'y' }, { lookup_options: 'x' })).toEqual([['lookup_options', 'patterns'], []]);
  expect(changed({}, options()), 'a merge more').toEqual([['lookup_options', 'patterns'], []]);
  expect(changed(options(), options())).toEqual([[], []]);
  expect(changed(options(), null)).toEqual({ prefix: 'data d\t' });
});

test('of metadata.json only what compiles see counts', () => {
  const text = (over: object) => JSON.stringify({ name: 'a-b', version: '1', dependencies: [], author: 'x', ...over });
  expect(metadataDiffers(text({}), text({ author: 'y' }))).toBe(false);
  expect(metadataDiffers(text({}), text({ version: '2' }))).toBe(false);
  expect(metadataDiffers(text({}), text({ version: null }))).toBe(true);
  const needs = (...names: (string | number)[]) =>
    text({ dependencies: names.map((name, n) => ({ name, version_requirement: `>= ${n}` })) });
  expect(metadataDiffers(needs('c/d', 'e/f'), text({ dependencies: [{ name: 'c/d' }, { name: 'e/f' }] }))).toBe(false);
  expect(metadataDiffers(needs('c/d', 'e/f'), needs('e/f', 'c/d'))).toBe(true);
  expect(metadataDiffers(needs('c/d'), needs(1))).toBe(true);
  expect(metadataDiffers(text({}), '{')).toBe(true);
});

test('globs match as Dir.glob does, or more', () => {
  expect(globMatches('manifests/**/*.pp', 'manifests/a/b.pp')).toBe(true);
  expect(globMatches('manifests/**/*.pp', 'manifests/b.pp')).toBe(true);
  expect(globMatches('a/*.{yaml,yml}', 'a/b.yml')).toBe(true);
  expect(globMatches('a/[bc].pp', 'a/b.pp')).toBe(true);
  expect(globMatches('a/*.pp', 'a/b/c.pp')).toBe(false);
  expect(globMatches('a/b.pp', 'a/bxpp')).toBe(false);
});

test('parts hold each input once, and those of a node apart from those of a module', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.constantFrom(...READABLE.map((path) => `file ${path}`), 'name type m', 'modules')),
      (inputs) => {
        expect(parts(inputs).flat().sort()).toEqual([...inputs].sort());
      },
    ),
  );
  expect(
    parts(['file modules/m/a', 'file modules/m/b/c', 'kind data/nodes/x.yaml', 'data data/common.yaml\tk']),
  ).toHaveLength(3);
});

test('a digest tells values apart at the paths that were read, and nothing else', () => {
  const data = (facts: object, volatileFacts: object = {}, extensions: object = {}) => ({
    facts: JSON.stringify(facts),
    volatileFacts: JSON.stringify(volatileFacts),
    extensions: JSON.stringify(extensions),
  });
  const paths = [
    ['facts', 'os', 'family'],
    ['facts', 'list', 1],
    ['facts', 'text', 'x'],
    ['trusted', 'extensions', 'pp_role'],
  ];
  const digest = (...of: Parameters<typeof data>) => dataDigest(paths, data(...of));
  const base = digest({ os: { family: 'Debian' }, text: 'y' });
  expect(digest({ os: { family: 'Debian', name: 'new' }, text: 'z', other: 1 })).toBe(base);
  expect(digest({ os: { family: 'RedHat' }, text: 'y' })).not.toBe(base);
  expect(digest({ os: {}, text: 'y' })).not.toBe(base);
  expect(digest({ os: { family: 'Debian' }, text: { x: 1 } })).not.toBe(base);
  expect(digest({ os: { family: 'Debian' }, text: 'y', list: [1] }), 'another kind of absence').not.toBe(base);
  expect(digest({ os: { family: 'Debian' }, text: 'y' }, {}, { pp_role: 'web' })).not.toBe(base);
  expect(volatilePath(paths, '{"os":{"x":1}}')).toBeUndefined();
  expect(volatilePath([['facts']], '{"os":{"x":1}}')).toEqual(['facts']);
});
