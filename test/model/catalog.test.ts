import fc from 'fast-check';
import { expect, test } from 'vitest';
import { catalogContents, catalogUuid, checkedCatalogId, servedCatalog } from '../../src/model/catalog.ts';

const canonical = Buffer.from('{"catalog_format":2,"name":"ä.example","resources":[]}');
const A = 'a'.repeat(64);
const B = 'b'.repeat(64);

test('the served document is the canonical bytes with members made from their hash', () => {
  const { id, document } = servedCatalog(canonical);
  expect(id).toMatch(/^[0-9a-f]{64}$/);
  expect(document.subarray(0, canonical.length - 1).equals(canonical.subarray(0, -1))).toBe(true);
  const parsed = JSON.parse(document.toString());
  expect(parsed).toEqual({
    catalog_format: 2,
    name: 'ä.example',
    resources: [],
    catalog_uuid: catalogUuid(id),
    code_id: null,
    version: id,
  });
  expect(parsed.catalog_uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

test('P3: the id is that of the bytes, and a document of other bytes does not carry it', () => {
  const { id, document } = servedCatalog(canonical);
  expect(checkedCatalogId(document)).toBe(id);
  fc.assert(
    fc.property(fc.nat(document.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const altered = Buffer.from(document);
      altered[at] = altered[at]! ^ flip;
      expect(() => checkedCatalogId(altered)).toThrow('not the one of its own id');
    }),
  );
  expect(() => checkedCatalogId(Buffer.from('{}'))).toThrow('not the one of its own id');
});

test('what is no JSON object is no canonical form', () => {
  for (const text of ['', '{}', '[1,2]', ' {"a":1}', '{"a":1}\n'])
    expect(() => servedCatalog(Buffer.from(text))).toThrow('one JSON object');
});

test('the contents are those of files, single and below directories, each once', () => {
  const file = (hash: string, relative: string | null = null) => ({
    relative_path: relative,
    type: 'file',
    checksum: { type: 'sha256', value: `{sha256}${hash}` },
    content_uri: `puppet:///sha256/${hash}`,
  });
  const directory = { relative_path: '.', type: 'directory', checksum: { type: 'ctime', value: '{ctime}1970-01-01' } };
  const link = { relative_path: 'l', type: 'link', destination: 'x', checksum: { type: 'none', value: '{none}' } };
  const document = Buffer.from(
    JSON.stringify({
      metadata: { '/t/b': file(B), '/t/again': file(B) },
      recursive_metadata: { '/t/tree': { 'puppet:///modules/m/tree': [directory, file(A, 'a'), link, file(B, 'b')] } },
    }),
  );
  expect(catalogContents(document)).toEqual([A, B]);
  expect(catalogContents(Buffer.from('{"resources":[]}'))).toEqual([]);
});

test('a file whose content would be asked of a server is refused', () => {
  const metadata = { relative_path: null, type: 'file', checksum: { type: 'sha256', value: '{sha256}x' } };
  const of = (more: object) => Buffer.from(JSON.stringify({ metadata: { '/t/x': { ...metadata, ...more } } }));
  expect(() => catalogContents(of({}))).toThrow('/t/x names no content of ours');
  expect(() => catalogContents(of({ content_uri: 'puppet:///modules/m/files/x' }))).toThrow('no content of ours');
  expect(() => catalogContents(of({ content_uri: `puppet:///sha256/${A}0` }))).toThrow('no content of ours');
});
