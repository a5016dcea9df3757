import { expect, test } from 'vitest';
import {
  changedDataPaths,
  changedFacts,
  changedFiles,
  changedInputs,
  isNear,
} from '../../src/catalog/changed-inputs.ts';
import { dataKeys, keyOrigins } from '../../src/catalog/hiera.ts';
import type { ContentHash } from '../../src/model/ids.ts';
import { difference } from '../../src/model/inputs.ts';
import type { TreeEntry } from '../../src/model/tree.ts';

const file = (path: string, hash = 'a'): TreeEntry => ({
  kind: 'file',
  path,
  mode: '644',
  hash: hash as ContentHash,
  size: 1,
});

const kept = [file('modules/m/manifests/same.pp'), file('modules/m/manifests/init.pp')];
const found = difference(
  { entries: [...kept, file('data/common.yaml'), file('modules/m/files/x'), file('mode')], modulepath: ['modules'] },
  {
    entries: [
      kept[0]!,
      file('modules/m/manifests/init.pp', 'b'),
      file('data/common.yaml', 'b'),
      file('data/nodes/a.yaml'),
      file('modules/m/lib/puppet/functions/m/f.rb'),
      { ...file('mode'), mode: '755' } as TreeEntry,
    ],
    modulepath: ['modules'],
  },
);

test('files that were added, removed or changed in any way', () => {
  expect(Object.fromEntries(changedFiles(found).map(({ path, change }) => [path, change]))).toEqual({
    'data/common.yaml': 'changed',
    'data/nodes/a.yaml': 'added',
    'modules/m/files/x': 'removed',
    'modules/m/lib/puppet/functions/m/f.rb': 'added',
    'modules/m/manifests/init.pp': 'changed',
    mode: 'changed',
  });
});

test('of what was read, exactly what differs', () => {
  const inputs = [
    'data data/common.yaml\tm::changed',
    'data data/common.yaml\tm::same',
    'data data/common.yaml\tm::absent',
    'data data/other.yaml\tm::changed',
    'data data/nodes/a.yaml\tm::changed',
    'file modules/m/manifests/init.pp',
    'file modules/m/manifests/other.pp',
    'glob data/nodes/*.yaml',
    'glob data/os/*.yaml',
    'kind data/nodes',
    'kind modules/m/files/x',
    'kind modules/m/manifests/init.pp',
    'list modules/m/files',
    'list modules/m/manifests',
    'list data',
    'modules',
    'name function m::f',
    'name function m::g',
    'name module m',
  ];
  expect(changedDataPaths(inputs, found)).toEqual(['data/common.yaml', 'data/nodes/a.yaml']);
  const data = new Map([
    ['data/common.yaml', { from: { 'm::changed': 1, 'm::same': [1] }, to: { 'm::changed': 2, 'm::same': [1] } }],
  ]);
  expect(changedInputs(inputs, found, data).map((each) => [each.input, each.change])).toEqual([
    ['data data/common.yaml\tm::changed', 'changed'],
    ['data data/nodes/a.yaml\tm::changed', 'added'],
    ['file modules/m/manifests/init.pp', 'changed'],
    ['glob data/nodes/*.yaml', 'added'],
    ['kind data/nodes', 'added'],
    ['kind modules/m/files/x', 'removed'],
    ['list modules/m/files', 'removed'],
    ['list data', 'added'],
    ['name function m::f', 'added'],
  ]);
});

test('of lookup_options, entries of keys that were asked for, and patterns', () => {
  const told = (options: object) => {
    const part = 'data data/common.yaml\tlookup_options';
    const data = new Map([
      ['data/common.yaml', { from: { lookup_options: { a: 1, b: 1 } }, to: { lookup_options: options } }],
    ]);
    const inputs = [`${part}\tmodules`, `${part}\tpatterns`, 'option a'];
    return changedInputs(inputs, found, data).map((each) => each.input);
  };
  expect(told({ b: 2, a: 1, c: 1 })).toEqual([]);
  expect(told({ a: 2, b: 1 })).toEqual(['data data/common.yaml\tlookup_options']);
  expect(told({ a: 1, b: 1, '^a': 1 })).toEqual(['data data/common.yaml\tlookup_options']);
});

test('facts that were read and have another value', () => {
  const read = [
    ['facts', 'os', 'family'],
    ['facts', 'a', 1],
    ['facts', 'gone'],
    ['facts', 'same'],
    ['trusted', 'certname'],
  ];
  const [from, to] = [
    { os: { family: 'Debian' }, a: [1, 2], gone: 1, same: 's', unread: 1 },
    { os: { family: 'RedHat' }, a: [1, 3], same: 's', unread: 2 },
  ];
  expect(changedFacts(read, from, to)).toEqual([
    { input: 'facts.os.family', change: 'changed' },
    { input: 'facts.a.1', change: 'changed' },
    { input: 'facts.gone', change: 'removed' },
  ]);
});

test('near is what lies in the modules of a resource, and the data of its classes', () => {
  const resource = { files: ['site/profile/manifests/web.pp'], classes: ['main', 'ntp::server'] };
  const near = (input: string, path?: string) => isNear({ input, change: 'changed', ...(path && { path }) }, resource);
  expect(near('file site/profile/templates/x.epp', 'site/profile/templates/x.epp')).toBe(true);
  expect(near('file modules/ntp/files/x', 'modules/ntp/files/x')).toBe(true);
  expect(near('data data/common.yaml\tntp::server::pool', 'data/common.yaml')).toBe(true);
  expect(near('data data/common.yaml\tssh::port', 'data/common.yaml')).toBe(false);
  expect(near('file modules/ssh/files/x', 'modules/ssh/files/x')).toBe(false);
});

test("a key's origin is the first file in Hiera's order that has it", () => {
  const configs = new Map([
    [
      '',
      'version: 5\nhierarchy:\n  - {name: node, path: "nodes/%{trusted.certname}.yaml"}\n  - {name: os, paths: ["os/%{facts.os.family}.yaml", common.yaml]}\n  - {name: more, glob: "more/*.yaml", datadir: extra}\n',
    ],
    ['modules/m', 'version: 5\ndefaults: {datadir: defaults}\nhierarchy: [{name: all, path: all.yaml}]\n'],
    ['modules/broken', '{'],
  ]);
  const files: Record<string, string> = {
    'data/nodes/a.yaml': 'other: 1\n',
    'data/os/Debian.yaml': 'm::key: os\n',
    'data/common.yaml': 'm::key: common\nplain: 1\n',
    'extra/more/z.yaml': '- a list\n',
    'modules/m/defaults/all.yaml': 'm::key: module\n',
  };
  const inputs = Object.keys(files)
    .flatMap((path) => [`data ${path}\tm::key`, `data ${path}\tlookup_options`])
    .sort();
  const keysOf = (path: string) => dataKeys(path, files[path]!);
  expect(keyOrigins([...inputs, 'data data/common.yaml\tnowhere', 'file x'], configs, keysOf)).toEqual([
    {
      key: 'm::key',
      from: 'data/os/Debian.yaml',
      files: [
        { path: 'data/nodes/a.yaml', has_key: false },
        { path: 'data/os/Debian.yaml', has_key: true },
        { path: 'data/common.yaml', has_key: true },
        { path: 'extra/more/z.yaml', has_key: false },
        { path: 'modules/m/defaults/all.yaml', has_key: true },
      ],
    },
    { key: 'nowhere', from: null, files: [{ path: 'data/common.yaml', has_key: false }] },
  ]);
});
