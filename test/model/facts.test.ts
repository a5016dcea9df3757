import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { mergeFacts, splitFacts } from '../../src/model/facts.ts';

const split = (text: string) => splitFacts(Buffer.from(text));

test('volatile values leave with one comma each, and not another byte changes', () => {
  const { stable, volatile, hash } = split(
    `{ "a" : 1.0,\n "load_averages": {"1m": 0.5}, "big":9223372036854775807,"memory":{"system":{"available":"1 GiB","total":"2 GiB","used_bytes":17}},` +
      `"mountpoints":{"/":{"size":"9 GiB","capacity":"1%"},"/a.b":{"used":"1","available_bytes":2}},"uptime":"1 day"\t}\n`,
  );
  expect(stable).toBe(
    `{ "a" : 1.0, "big":9223372036854775807,"memory":{"system":{"total":"2 GiB"}},"mountpoints":{"/":{"size":"9 GiB"},"/a.b":{}}\t}\n`,
  );
  expect(JSON.parse(volatile)).toEqual({
    load_averages: { '1m': 0.5 },
    memory: { system: { available: '1 GiB', used_bytes: 17 } },
    mountpoints: { '/': { capacity: '1%' }, '/a.b': { used: '1', available_bytes: 2 } },
    uptime: '1 day',
  });
  expect(hash).toBe(createHash('sha256').update(stable).digest('hex'));
});

test('the hash stays when only volatile values change, come or go', () => {
  const first = split('{"uptime":"1 day","os":{"family":"Debian"},"processors":{"count":2,"speed":"2.1 GHz"}}');
  const second = split('{"uptime":"2 days","os":{"family":"Debian"},"processors":{"count":2,"speed":"3 GHz"}}');
  const third = split('{"os":{"family":"Debian"},"processors":{"count":2}}');
  expect(second.hash).toBe(first.hash);
  expect(third.hash).toBe(first.hash);
  expect(third.volatile).toBe('{}');
});

test("a site's own facts stay, though their names begin alike", () => {
  const text =
    '{"uptime_policy":"strict","memoryfree_alarm":5,"site":{"memory":{"system":{"used":1}}},"processors":[{"speed":1}]}';
  expect(split(text)).toMatchObject({ stable: text, volatile: '{}' });
});

test('a volatile name written with escapes is known', () => {
  expect(split(String.raw`{"load\u005faverages":{"1m":1},"a":1}`).stable).toBe('{"a":1}');
});

describe('any mixture of facts', () => {
  const names = fc.constantFrom(
    'uptime',
    'load_averages',
    'memory',
    'mountpoints',
    'processors',
    'swapfree',
    'os',
    'ünï "x"',
  );
  const inner = fc.constantFrom(
    'system',
    'swap',
    'available',
    'used_bytes',
    'capacity',
    'speed',
    'total',
    '*',
    '__proto__',
  );
  const facts = fc.dictionary(
    names,
    fc.oneof(
      fc.jsonValue({ maxDepth: 1 }),
      fc.dictionary(inner, fc.oneof(fc.integer(), fc.dictionary(inner, fc.string()))),
    ),
  );

  test('splits into two that give the whole again, and splits no further', () => {
    fc.assert(
      fc.property(facts, fc.constantFrom(0, 2), (values, indent) => {
        const text = JSON.stringify(values, null, indent);
        const { stable, volatile, hash } = split(text);
        expect(JSON.parse(mergeFacts(stable, volatile))).toEqual(JSON.parse(text));
        expect(split(stable)).toEqual({ stable, volatile: '{}', hash });
      }),
      { numRuns: 300 },
    );
  });
});

describe('refusals', () => {
  test.each(['[]', '1', 'null', '"facts"'])('%s is no facts', (text) => {
    expect(() => split(text)).toThrow(expect.objectContaining({ code: 'FACTS_INVALID' }));
  });

  test("a fact called 'a::b' could pass for a class's variable", () => {
    expect(() => split('{"a::b":1}')).toThrow("contains '::'");
    expect(() => split(String.raw`{"a\u003a:b":1}`)).toThrow("contains '::'");
    expect(split('{"a":{"b::c":1}}').volatile).toBe('{}');
  });

  test('too many names, and a name too long', () => {
    const many = (count: number) =>
      JSON.stringify(Object.fromEntries(Array.from({ length: count }, (_, i) => [`f${i}`, i])));
    expect(split(many(10_240)).volatile).toBe('{}');
    expect(() => split(many(10_241))).toThrow('10240 is the most');
    expect(() => split(JSON.stringify({ ['é'.repeat(1281)]: 1 }))).toThrow('longer than 2560 bytes');
  });

  test('a key twice', () => {
    expect(() => split('{"a":1,"a":1}')).toThrow(expect.objectContaining({ code: 'JSON_INVALID' }));
  });
});
