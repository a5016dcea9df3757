import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseConditions } from '../../src/catalog/conditions.ts';
import { type Change, changeOf, headlineOf, Plan } from '../../src/catalog/plan.ts';
import { refreshedBy } from '../../src/catalog/refresh.ts';
import type { Catalog, CatalogResource } from '../../src/model/catalog.ts';

const resource = (name: string, parameters: object = {}, more: object = {}): CatalogResource => {
  const [, type, title] = /^([^[]+)\[(.*)\]$/.exec(name)!;
  return { type, title, parameters, file: 'site.pp', line: 1, tags: [], ...more } as CatalogResource;
};
const catalog = (resources: CatalogResource[], edges: [string, string][] = []): Catalog => ({
  name: 'n',
  environment: 'production',
  catalog_format: 2,
  resources,
  edges: edges.map(([source, target]) => ({ source, target })),
});
const change = (from: Catalog | undefined, to: Catalog) => changeOf(from, to, new Map(), { edges: false });

const NTP = (content: string, line = 1) =>
  catalog(
    [
      resource('Class[Ntp]'),
      resource('Package[ntp]'),
      resource('File[/etc/ntp.conf]', { content, require: 'Package[ntp]' }, { line }),
      resource('Service[ntp]', { ensure: 'running', subscribe: ['File[/etc/ntp.conf]', 'Package[ntp]'] }),
    ],
    [
      ['Class[Ntp]', 'Package[ntp]'],
      ['Class[Ntp]', 'File[/etc/ntp.conf]'],
      ['Class[Ntp]', 'Service[ntp]'],
    ],
  );

test('a change in a line: what differs, and what is refreshed because of it', () => {
  const found = change(NTP('a\n'), NTP('b\n', 7))!;
  expect(headlineOf(found)).toBe('File[/etc/ntp.conf] content, Service[ntp] refreshed because of it');
  expect(found.refreshed).toEqual([{ resource: 'Service[ntp]', because: 'File[/etc/ntp.conf]' }]);
  expect(found.counts).toEqual({ added: 0, removed: 0, changed: 1 });
  expect(JSON.stringify(found)).not.toContain('position');
});

test('what is only declared elsewhere is no change', () => {
  expect(change(NTP('a\n'), NTP('a\n', 9))).toBeUndefined();
  expect(change(NTP('a\n'), NTP('a\n'))).toBeUndefined();
});

test('a node without a catalog is new', () => {
  const found = change(undefined, NTP('a\n'))!;
  expect(found.is_new).toBe(true);
  expect(headlineOf(found)).toBe('new node: 4 resources');
  expect(found.refreshed).toEqual([]);
});

test('a headline names few things, the classes last', () => {
  const of = (mode: string) =>
    catalog([
      resource('Class[A]', { mode }),
      ...['a', 'b', 'c', 'd', 'e'].map((each) => resource(`File[/${each}]`, { mode })),
    ]);
  expect(headlineOf(change(of('1'), of('2'))!)).toBe('File[/a] mode, File[/b] mode, File[/c] mode, and 3 more');
  const tags = (tag: string) => catalog([resource('File[/a]', {}, { tags: [tag] })]);
  expect(headlineOf(change(tags('a'), tags('b'))!)).toBe('tags of 1 resource');
  const ordered = (...names: string[]) => catalog(names.map((name) => resource(name)));
  expect(headlineOf(change(ordered('A[a]', 'B[b]'), ordered('B[b]', 'A[a]'))!)).toBe('resources in another order');
});

test('a refresh goes along notify and subscribe, through classes, and on from what it refreshes', () => {
  const of =
    (resources: CatalogResource[], edges: [string, string][] = []) =>
    (changed: string) =>
      refreshedBy(catalog(resources, edges), [changed]).map((each) => each.resource);
  expect(
    of([
      resource('File[/a]', { notify: 'Exec[b]' }),
      resource('Exec[b]', { notify: ['Service[c]'] }),
      resource('Service[c]'),
    ])('File[/a]'),
  ).toEqual(['Exec[b]', 'Service[c]']);
  // A file does nothing on a refresh, and tells nobody.
  expect(
    of([
      resource('File[/a]', { notify: 'File[/b]' }),
      resource('File[/b]', { notify: 'Service[c]' }),
      resource('Service[c]'),
    ])('File[/a]'),
  ).toEqual([]);
  // require and before order, and tell nothing.
  expect(
    of([resource('File[/a]', { before: 'Service[c]' }), resource('Service[c]', { require: 'File[/a]' })])('File[/a]'),
  ).toEqual([]);
  const classes = of(
    [
      resource('Class[Config]', { notify: 'Class[Run]' }),
      resource('File[/a]'),
      resource('Class[Run]'),
      resource('Run::It[x]', {}, { kind: 'defined_type' }),
      resource('Service[c]'),
      resource('Service[d]'),
    ],
    [
      ['Class[Config]', 'File[/a]'],
      ['Class[Run]', 'Run::It[x]'],
      ['Run::It[x]', 'Service[c]'],
    ],
  );
  expect(classes('File[/a]')).toEqual(['Service[c]']);
  expect(classes('Service[d]')).toEqual([]);
  // By another name of the file.
  expect(
    of([resource('File[conf]', { path: '/a' }), resource('Service[c]', { subscribe: 'File[/a]' })])('File[conf]'),
  ).toEqual(['Service[c]']);
  // A circle ends.
  expect(
    of([resource('Exec[a]', { notify: 'Exec[b]' }), resource('Exec[b]', { notify: 'Exec[a]' })])('Exec[a]'),
  ).toEqual(['Exec[b]']);
});

const changes = fc.constantFrom<Change>(
  ...['x', 'y', 'z'].map((content) => change(NTP('a\n'), NTP(`${content}\n`))!),
  change(undefined, NTP('a\n'))!,
);
const fates = fc.uniqueArray(
  fc.record({
    name: fc.stringMatching(/^[a-z]{1,6}$/),
    fate: fc.oneof(changes, fc.constantFrom('unchanged', 'unaffected', 'missing', 'failed')),
  }),
  { selector: (each) => each.name, maxLength: 30 },
);

test('every node is told of once, in the group of its very change, and the largest groups come first', () => {
  fc.assert(
    fc.property(fates, fc.integer({ min: 0, max: 5000 }), (nodes, bytesMax) => {
      const plan = new Plan(bytesMax);
      for (const { name, fate } of nodes) {
        if (fate === 'unchanged') plan.unchanged();
        else if (fate === 'unaffected') plan.unaffected();
        else if (fate === 'missing') plan.notCompiled(name);
        else if (fate === 'failed') plan.fail(name, { message: `Broken on node ${name}`, file: 'a.pp', line: 1 });
        else plan.change(name, fate);
      }
      const groups = plan.groups();
      const grouped = groups.flatMap((group) => group.certnames);
      const changed = nodes.filter(({ fate }) => typeof fate !== 'string');
      expect([...grouped].sort()).toEqual(changed.map(({ name }) => name).sort());
      const texts = new Map(changed.map(({ name, fate }) => [name, JSON.stringify(fate)]));
      for (const group of groups) expect(new Set(group.certnames.map((name) => texts.get(name))).size).toBe(1);
      expect(new Set(texts.values()).size).toBe(groups.length);
      const sizes = groups.map((group) => group.certnames.length);
      expect(sizes).toEqual([...sizes].sort((a, b) => b - a));
      expect(groups.reduce((sum, group) => sum + (group.change?.length ?? 0), 0)).toBeLessThanOrEqual(bytesMax);
      expect(plan.failures().length).toBe(nodes.some(({ fate }) => fate === 'failed') ? 1 : 0);
      const { total, new: _, ...parts } = plan.summary();
      expect(total).toBe(nodes.length);
      expect(Object.values(parts).reduce((sum, each) => sum + each, 0)).toBe(total);
    }),
  );
});

test('an error with the name of its node in it is one error', () => {
  const plan = new Plan();
  for (const name of ['web1.example', 'web10.example'])
    plan.fail(name, {
      message: `Could not find class ::x for ${name} (line: 2) on node ${name}`,
      file: 's.pp',
      line: 2,
    });
  plan.fail('db1.example', { message: 'Another', file: null, line: null });
  expect(plan.failures()).toEqual([
    {
      message: 'Could not find class ::x for web1.example (line: 2)',
      file: 's.pp',
      line: 2,
      certnames: ['web1.example', 'web10.example'],
    },
    { message: 'Another', file: null, line: null, certnames: ['db1.example'] },
  ]);
});

test('conditions are read, or refused with a sentence', () => {
  expect(
    parseConditions(['certname=web*.ex_mple', 'facts.os.family!=Debian', 'facts."a.b".c=x=y', 'facts.n=']),
  ).toEqual([
    { kind: 'certname', pattern: 'web%.ex\\_mple', isNot: false },
    { kind: 'fact', path: ['os', 'family'], value: 'Debian', isNot: true },
    { kind: 'fact', path: ['a.b', 'c'], value: 'x=y', isNot: false },
    { kind: 'fact', path: ['n'], value: '', isNot: false },
  ]);
  for (const wrong of ['', 'certname', 'facts=x', 'facts.=x', 'colour=red', 'facts..a=x', 'facts."a=x', '=x'])
    expect(() => parseConditions([wrong]), wrong).toThrow('is no condition');
});
