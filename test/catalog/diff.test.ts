import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { diffCatalogs, differingContents } from '../../src/catalog/diff.ts';
import { parseExactly } from '../../src/catalog/exact.ts';
import { redactedCatalog } from '../../src/catalog/secrets.ts';
import type { Catalog, CatalogResource, FileMetadata } from '../../src/model/catalog.ts';
import type { ContentHash } from '../../src/model/ids.ts';

const base: Catalog = {
  name: 'n',
  environment: 'production',
  catalog_format: 2,
  resources: [],
  edges: [],
  tags: [],
  classes: [],
};
const catalogOf = (resources: Partial<CatalogResource>[], more: Partial<Catalog> = {}): Catalog =>
  // Through bytes, as catalogs come.
  parseExactly(Buffer.from(JSON.stringify({ ...base, resources, ...more })));
const file = (title: string, parameters: object, more: object = {}): CatalogResource =>
  ({ type: 'File', title, tags: ['file'], file: 'site.pp', line: 1, parameters, ...more }) as CatalogResource;
const hashOf = (text: string | Buffer) => createHash('sha256').update(text).digest('hex') as ContentHash;
const meta = (text: string | Buffer, more: object = {}): FileMetadata =>
  ({
    relative_path: null,
    type: 'file',
    checksum: { type: 'sha256', value: `{sha256}${hashOf(text)}` },
    content_uri: `puppet:///sha256/${hashOf(text)}`,
    ...more,
  }) as FileMetadata;
const stored = (...texts: (string | Buffer)[]) =>
  new Map(texts.map((text) => [hashOf(text), { size: Buffer.byteLength(text), bytes: Buffer.from(text) }]));

test('resources added, removed and changed, with each parameter old and new', () => {
  const from = catalogOf([
    { type: 'Package', title: 'ntp', parameters: { ensure: '1.0', tag: ['a'] } },
    { type: 'Service', title: 'ntp', parameters: { enable: true } },
  ]);
  const to = catalogOf([
    { type: 'Package', title: 'ntp', parameters: { ensure: '1.1', tag: ['a'], provider: 'apt' } },
    { type: 'User', title: 'bob' },
  ]);
  const diff = diffCatalogs(from, to);
  expect(diff.counts).toEqual({ added: 1, removed: 1, changed: 1, position_only: 0 });
  expect(diff.resources.map((each) => [each.resource, each.change])).toEqual([
    ['Package[ntp]', 'changed'],
    ['User[bob]', 'added'],
    ['Service[ntp]', 'removed'],
  ]);
  expect(diff.resources[0]!.parameters).toEqual([
    { name: 'ensure', change: 'changed', sensitive: false, from: '1.0', to: '1.1' },
    { name: 'provider', change: 'added', sensitive: false, to: 'apt' },
  ]);
  expect(diff.resources[2]!.parameters).toEqual([{ name: 'enable', change: 'removed', sensitive: false, from: true }]);
  expect(diff.identical).toBe(false);
});

test('numbers are compared digit for digit and told as they were written', () => {
  const of = (number: string) =>
    parseExactly<Catalog>(
      Buffer.from(
        `{"catalog_format":2,"edges":[],"resources":[{"parameters":{"n":${number}},"title":"t","type":"Foo"}]}`,
      ),
    );
  const told = (a: string, b: string) => JSON.stringify(diffCatalogs(of(a), of(b)).resources[0]?.parameters[0]);
  expect(told('1', '1.0')).toBe('{"name":"n","change":"changed","sensitive":false,"from":1,"to":1.0}');
  expect(told('12345678901234567890', '12345678901234567891')).toBe(
    '{"name":"n","change":"changed","sensitive":false,"from":12345678901234567890,"to":12345678901234567891}',
  );
  expect(told('[1,2.50]', '[1,2.5]')).toContain('"from":[1,2.50],"to":[1,2.5]');
  expect(told('1', '"1"')).toContain('"from":1,"to":"1"');
  for (const same of ['1.0', '-0', '1e400', '0.1', '[{"a":2.0}]'])
    expect(diffCatalogs(of(same), of(same)).identical).toBe(true);
});

test('what is only declared elsewhere is told apart from what changes a node', () => {
  const diff = diffCatalogs(
    catalogOf([file('/a', { mode: '0644' }), file('/b', { mode: '0644' })]),
    catalogOf([file('/a', { mode: '0644' }, { file: 'other.pp', line: 9 }), file('/b', { mode: '0600' }, { line: 2 })]),
  );
  expect(diff.counts).toEqual({ added: 0, removed: 0, changed: 1, position_only: 1 });
  expect(diff.resources[0]).toMatchObject({
    resource: 'File[/a]',
    position_only: true,
    position: { from: { file: 'site.pp', line: 1 }, to: { file: 'other.pp', line: 9 } },
  });
  expect(diff.resources[1]).toMatchObject({ resource: 'File[/b]', position_only: false });
  expect(diff.position_only).toBe(false);
  const moved = diffCatalogs(catalogOf([file('/a', {})]), catalogOf([file('/a', {}, { line: 7 })]));
  expect(moved).toMatchObject({ position_only: true, identical: false });
});

test('inline content is told as a unified diff', () => {
  const [before, after] = ['one\ntwo\nthree\n', 'one\n2\nthree\nfour\n'];
  const diff = diffCatalogs(
    catalogOf([file('/etc/x', { content: before })]),
    catalogOf([file('/etc/x', { content: after })]),
  );
  expect(diff.resources[0]!.parameters).toEqual([]);
  expect(diff.resources[0]!.contents).toEqual([
    {
      path: '/etc/x',
      change: 'changed',
      from: { kind: 'text', size: 14, hash: hashOf(before) },
      to: { kind: 'text', size: 17, hash: hashOf(after) },
      diff: '@@ -1,3 +1,4 @@\n one\n-two\n+2\n three\n+four\n',
    },
  ]);
});

test('a source is told by the texts of its contents, and by size and hash where there is no text', () => {
  const [text, image, large] = ['a\nb\n', Buffer.from([0x89, 0x50, 0, 1]), 'x'.repeat(300_000)];
  const side = (first: string | Buffer, rest: string) =>
    catalogOf(
      ['/text', '/image', '/large', '/gone'].map((title) => file(title, { source: 'puppet:///modules/m/x' })),
      {
        metadata: {
          '/text': meta(first),
          '/image': meta(rest ? image : 'i'),
          '/large': meta(large + rest),
          '/gone': meta(`gone${rest}`),
        },
      },
    );
  const [from, to] = [side('a\n', ''), side(text, '!')];
  const hashes = differingContents(from, to);
  expect(hashes).toHaveLength(8);
  const contents = new Map<ContentHash, { size: number; bytes?: Buffer } | undefined>([
    ...stored('a\n', text, 'i', image),
    [hashOf(large), { size: 300_000 }],
    [hashOf(`${large}!`), { size: 300_001 }],
  ]);
  const diff = diffCatalogs(from, to, contents);
  const [textChange, imageChange, largeChange, goneChange] = diff.resources.map((each) => each.contents[0]!);
  expect(textChange!.diff).toBe('@@ -1,1 +1,2 @@\n a\n+b\n');
  expect(imageChange).toEqual({
    path: '/image',
    change: 'changed',
    from: { kind: 'text', size: 1, hash: hashOf('i') },
    to: { kind: 'binary', size: 4, hash: hashOf(image) },
  });
  expect(largeChange).toMatchObject({ from: { kind: 'stored', size: 300_000 }, to: { kind: 'stored', size: 300_001 } });
  expect(largeChange).not.toHaveProperty('diff');
  expect(goneChange!.from).toEqual({ kind: 'stored', hash: hashOf('gone') });
});

test('the same bytes, once inline and once from a source, are no other content', () => {
  const from = catalogOf([file('/a', { content: 'same\n' })]);
  const to = catalogOf([file('/a', { source: 'puppet:///modules/m/a' })], { metadata: { '/a': meta('same\n') } });
  const diff = diffCatalogs(from, to);
  expect(diff.resources[0]!.contents).toEqual([]);
  expect(diff.resources[0]!.parameters.map((each) => each.name)).toEqual(['source']);
  expect(diff.identical).toBe(false);
});

test('files below a directory are told one by one', () => {
  const tree = (files: Record<string, string>) =>
    catalogOf([file('/srv/www', { source: 'puppet:///modules/m/www', recurse: true })], {
      recursive_metadata: {
        '/srv/www': {
          'puppet:///modules/m/www': [
            { ...meta(''), type: 'directory', relative_path: '.', content_uri: undefined } as never,
            ...Object.entries(files).map(([path, text]) => meta(text, { relative_path: path })),
          ],
        },
      },
    });
  const diff = diffCatalogs(
    tree({ a: '1\n', 'sub/b': '1\n', c: '1\n' }),
    tree({ a: '1\n', 'sub/b': '2\n', d: '1\n' }),
    stored('1\n', '2\n'),
  );
  expect(diff.resources[0]!.contents.map((each) => [each.path, each.change, each.diff])).toEqual([
    ['/srv/www/c', 'removed', '@@ -1,1 +0,0 @@\n-1\n'],
    ['/srv/www/d', 'added', '@@ -0,0 +1,1 @@\n+1\n'],
    ['/srv/www/sub/b', 'changed', '@@ -1,1 +1,1 @@\n-1\n+2\n'],
  ]);
});

test('sources of other types than File are told by their URIs', () => {
  const uri = 'puppet:///modules/m/part';
  const side = (text: string) =>
    catalogOf([{ type: 'Concat_fragment', title: 'part', parameters: { source: [uri, '/local'], target: '/etc/x' } }], {
      metadata: { [uri]: meta(text) },
    });
  const diff = diffCatalogs(side('1\n'), side('2\n'), stored('1\n', '2\n'));
  expect(differingContents(side('1\n'), side('2\n'))).toEqual([hashOf('1\n'), hashOf('2\n')]);
  expect(diff.resources[0]!.parameters).toEqual([]);
  expect(diff.resources[0]!.contents).toMatchObject([{ path: uri, diff: '@@ -1,1 +1,1 @@\n-1\n+2\n' }]);
  expect(diffCatalogs(side('1\n'), side('1\n')).identical).toBe(true);
});

test('secrets are told as changed and by nothing else', () => {
  const secret = (value: string) =>
    catalogOf([
      file('/key', { content: value }, { sensitive_parameters: ['content'] }),
      { type: 'Db', title: 'd', parameters: { password: value, user: 'u' }, sensitive_parameters: ['password'] },
      {
        type: 'App',
        title: 'a',
        parameters: { env: { token: { __ptype: 'Sensitive', __pvalue: value }, port: value.length } },
      },
    ]);
  const diff = diffCatalogs(secret('hunter2'), secret('correct horse'));
  expect(diff.counts.changed).toBe(3);
  expect(diff.resources[0]!.contents).toEqual([
    { path: '/key', change: 'changed', from: { kind: 'sensitive' }, to: { kind: 'sensitive' } },
  ]);
  expect(diff.resources[1]!.parameters).toEqual([{ name: 'password', change: 'changed', sensitive: true }]);
  expect(diff.resources[2]!.parameters[0]).toMatchObject({
    name: 'env',
    sensitive: true,
    from: { port: 7 },
    to: { port: 13 },
  });
  const told = JSON.stringify(diff);
  for (const leak of ['hunter2', 'correct horse', hashOf('hunter2'), hashOf('correct horse')])
    expect(told).not.toContain(leak);
  expect(diffCatalogs(secret('hunter2'), secret('hunter2')).identical).toBe(true);
  // A parameter that stops being a secret does not tell what it was.
  const open = catalogOf([{ type: 'Db', title: 'd', parameters: { password: 'plain' } }]);
  const closed = catalogOf([
    { type: 'Db', title: 'd', parameters: { password: 'hunter2' }, sensitive_parameters: ['password'] },
  ]);
  expect(JSON.stringify(diffCatalogs(closed, open))).not.toMatch(/hunter2|plain/);
});

test('a catalog is redacted without touching anything else', () => {
  const document = Buffer.from(
    '{"resources":[{"parameters":{"big":12345678901234567890,"f":1.0,"list":[{"__ptype":"Sensitive","__pvalue":"hunter2"}],"password":"hunter2"},"sensitive_parameters":["password"],"title":"t","type":"T"}]}',
  );
  expect(redactedCatalog(document)).toBe(
    document
      .toString()
      .replace('"__pvalue":"hunter2"', '"__pvalue":"Sensitive [value redacted]"')
      .replace('"password":"hunter2"', '"password":"Sensitive [value redacted]"'),
  );
});

test('tags, classes, edges, order and the rest are compared too', () => {
  const resources = [file('/a', {}), file('/b', {}), file('/c', {})];
  const from = catalogOf(resources, {
    edges: [{ source: 'Class[A]', target: 'File[/a]' }],
    classes: ['a'],
    tags: ['x', 'y'],
  });
  const to = catalogOf(
    [{ ...resources[1]!, tags: ['file', 'web'] }, { ...resources[0]!, exported: true }, resources[2]!],
    {
      edges: [{ source: 'Class[B]', target: 'File[/a]' }],
      classes: ['a', 'b'],
      tags: ['y', 'x'],
      environment: 'staging',
    },
  );
  const diff = diffCatalogs(from, to);
  expect(diff).toMatchObject({
    edges: { added: ['Class[B] -> File[/a]'], removed: ['Class[A] -> File[/a]'], reordered: false },
    classes: { added: ['b'], removed: [] },
    tags: { added: [], removed: [], reordered: true },
    order_changed: true,
    other: ['environment'],
  });
  expect(diff.resources.map((each) => [each.resource, each.tags?.added, each.other])).toEqual([
    ['File[/b]', ['web'], []],
    ['File[/a]', undefined, ['exported']],
  ]);
});

test('against nothing, everything is added', () => {
  const diff = diffCatalogs(undefined, catalogOf([file('/a', { content: 'x\n' })], { classes: ['a'] }));
  expect(diff.counts).toEqual({ added: 1, removed: 0, changed: 0, position_only: 0 });
  expect(diff.resources[0]!.contents[0]).toMatchObject({ change: 'added', diff: '@@ -0,0 +1,1 @@\n+x\n' });
  expect(diff.resources[0]!.position).toEqual({ to: { file: 'site.pp', line: 1 } });
});

test('titles are only names', () => {
  const resources = ['constructor', '__proto__', 'toString'].map((title) =>
    file(title, JSON.parse('{"__proto__":1,"constructor":2}')),
  );
  const from = catalogOf([], { metadata: {} });
  const to = catalogOf(resources, { metadata: {} });
  expect(diffCatalogs(from, to).counts.added).toBe(3);
  expect(diffCatalogs(to, to).identical).toBe(true);
  const changed = catalogOf(
    resources.map((each) => ({ ...each, parameters: JSON.parse('{"__proto__":3,"constructor":2}') })),
  );
  expect(diffCatalogs(to, changed).resources[0]!.parameters.map((each) => each.name)).toEqual(['__proto__']);
});

test('two large texts that have nothing in common do not hold the process', () => {
  const text = (seed: number) => Array.from({ length: 20_000 }, (_, index) => `${(index * seed) % 65_537}`).join('\n');
  const startedAt = performance.now();
  const diff = diffCatalogs(
    catalogOf(Array.from({ length: 10 }, (_, index) => file(`/f${index}`, { content: text(7) }))),
    catalogOf(Array.from({ length: 10 }, (_, index) => file(`/f${index}`, { content: text(11) }))),
  );
  // Half a second of comparing, and parsing; without a limit it is minutes. The bound is for a machine that is busy.
  expect(performance.now() - startedAt).toBeLessThan(15_000);
  expect(diff.resources.at(-1)!.contents[0]).toMatchObject({ change: 'changed', from: { kind: 'text' } });
  expect(diff.resources.at(-1)!.contents[0]).not.toHaveProperty('diff');
});

/** Small catalogs over few names, so that two of them share a lot. */
const anyCatalog: fc.Arbitrary<Catalog> = fc.record(
  {
    resources: fc.uniqueArray(
      fc.record(
        {
          type: fc.constantFrom('File', 'Notify'),
          title: fc.constantFrom('/a', '/b'),
          tags: fc.array(fc.constantFrom('t', 'u'), { maxLength: 2 }),
          line: fc.integer({ min: 1, max: 2 }),
          exported: fc.boolean(),
          parameters: fc.dictionary(fc.constantFrom('content', 'mode', 'p'), fc.jsonValue({ maxDepth: 2 }) as never, {
            maxKeys: 2,
          }),
          sensitive_parameters: fc.constantFrom(['content'], ['p']),
        },
        { requiredKeys: ['type', 'title'] },
      ),
      { selector: (each) => `${each.type}[${each.title}]`, maxLength: 4 },
    ),
    edges: fc.array(fc.record({ source: fc.constantFrom('A', 'B'), target: fc.constantFrom('C', 'D') }), {
      maxLength: 2,
    }),
    metadata: fc.dictionary(
      fc.constantFrom('/a', '/b'),
      fc.constantFrom(meta('1'), meta('2'), meta('1', { mode: 420 })),
    ),
    classes: fc.array(fc.constantFrom('a', 'b'), { maxLength: 2 }),
    environment: fc.constantFrom('production', 'staging'),
  },
  { requiredKeys: ['resources', 'edges'] },
) as never;

test('equal catalogs, and only they, have no difference', () => {
  // Metadata of a title that no File has says nothing about a node.
  const relevant = (catalog: Catalog): Catalog => {
    const titles = new Set(catalog.resources.filter((each) => each.type === 'File').map((each) => each.title));
    const metadata = Object.entries(catalog.metadata ?? {}).filter(([title]) => titles.has(title));
    return { ...catalog, metadata: Object.fromEntries(metadata) };
  };
  const through = (catalog: Catalog) => parseExactly<Catalog>(Buffer.from(JSON.stringify(relevant(catalog))));
  const normal = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(normal)
      : value && typeof value === 'object'
        ? Object.entries(value)
            .map(([key, each]) => [key, normal(each)])
            .sort()
        : value;
  fc.assert(
    fc.property(anyCatalog, anyCatalog, fc.nat(), (one, other, pick) => {
      // One member of the other: two that are nearly equal.
      const members = Object.keys(other);
      const member = members[pick % members.length] as keyof Catalog;
      const [a, b] = [through(one), through({ ...one, [member]: other[member] })];
      expect(diffCatalogs(a, structuredClone(a)).identical).toBe(true);
      // Absent and empty lists and parameters are the same to Puppet.
      const filled = (catalog: Catalog) => ({
        ...catalog,
        classes: catalog.classes ?? [],
        resources: catalog.resources.map((each) => ({
          ...each,
          tags: each.tags ?? [],
          parameters: each.parameters ?? {},
        })),
      });
      const isEqual = JSON.stringify(normal(filled(a))) === JSON.stringify(normal(filled(b)));
      expect(diffCatalogs(a, b).identical).toBe(isEqual);
      expect(diffCatalogs(b, a).identical).toBe(isEqual);
    }),
    { numRuns: 1000 },
  );
});
