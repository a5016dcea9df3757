import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseRaw, type RawValue } from '../../src/model/json.ts';

const raw = (text: string, depthMax?: number) => parseRaw(Buffer.from(text), depthMax);

/** The same value built through the spans alone: every leaf is parsed from its own bytes. */
function rebuilt(value: RawValue): unknown {
  if (value.kind === 'object') {
    const object: Record<string, unknown> = {};
    for (const { key, value: inner } of value.members())
      Object.defineProperty(object, key, { value: rebuilt(inner), enumerable: true, configurable: true });
    return object;
  }
  if (value.kind === 'array') return value.items().map(rebuilt);
  return value.parsed();
}

function accepts(bytes: Buffer): boolean {
  try {
    parseRaw(bytes);
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: 'JSON_INVALID' });
    return false;
  }
}

/** What JSON.parse says, with the two rules it lacks: UTF-8, and no key twice. */
function acceptable(bytes: Buffer): boolean {
  try {
    JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    return false;
  }
  return true;
}

describe('a whole document', () => {
  test('every value that JSON.stringify writes is read back through its spans, with and without white space', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom(0, 1, '\t'), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        expect(rebuilt(raw(text))).toEqual(JSON.parse(text));
      }),
      { numRuns: 300 },
    );
  });

  test('mutated documents are taken exactly when JSON.parse takes them and no key stands twice', () => {
    fc.assert(
      fc.property(
        fc.jsonValue(),
        fc.array(fc.tuple(fc.nat(), fc.constantFrom(...'"\\{}[]:,0123eE+-. \n\ttrufalsn\u0001é', '\ud83d\ude00', '')), {
          minLength: 1,
          maxLength: 3,
        }),
        (value, mutations) => {
          let text = JSON.stringify(value);
          for (const [where, what] of mutations) {
            const at = where % (text.length + 1);
            text = text.slice(0, at) + what + text.slice(at + (where % 2));
          }
          const bytes = Buffer.from(text);
          const expected = acceptable(bytes);
          if (accepts(bytes)) expect(expected).toBe(true);
          else if (expected) expect(() => parseRaw(bytes)).toThrow(/stands twice|nested deeper/);
        },
      ),
      { numRuns: 2000 },
    );
  });

  test('mutated bytes are taken only when they are UTF-8', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.nat(), fc.integer({ min: 0, max: 255 }), (value, where, byte) => {
        const bytes = Buffer.from(JSON.stringify(value));
        bytes[where % bytes.length] = byte;
        if (accepts(bytes)) expect(acceptable(bytes)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('bytes survive', () => {
  test('numbers keep every digit and their spelling', () => {
    for (const number of [
      '9223372036854775807',
      '-0',
      '1.0',
      '1e3',
      '1E+3',
      '0.1',
      '123456789012345678901234567890.10',
    ])
      expect(raw(`{"n": ${number} }`).member('n')!.text).toBe(number);
  });

  test('strings keep their escapes, and are understood', () => {
    const value = raw(String.raw`{"s":"\u00e9\/\ud83d\ude00 é"}`).member('s')!;
    expect(value.text).toBe(String.raw`"\u00e9\/\ud83d\ude00 é"`);
    expect(value.string()).toBe('é/😀 é');
  });

  test('spans are bytes, not characters', () => {
    const document = Buffer.from('{"ü":1,"b":[true]}');
    const [first, second] = parseRaw(document).members();
    expect(document.toString('utf8', first!.start, first!.value.end)).toBe('"ü":1');
    expect(second!.start).toBe(8);
    expect(second!.value.items()[0]!.kind).toBe('boolean');
  });

  test('members come in the order they were written, whatever their names', () => {
    const keys = raw('{"b":1,"10":1,"__proto__":1,"2":1,"constructor":1}').members();
    expect(keys.map((member) => member.key)).toEqual(['b', '10', '__proto__', '2', 'constructor']);
  });
});

describe('refusals', () => {
  const reasons: [text: string, reason: string, offset: number][] = [
    ['', 'it ends where a value should stand', 0],
    ['{"a":1,}', "'}' stands where a key should", 7],
    ['[1,]', "']' stands where a value should", 3],
    ['{"a" 1}', "'1' stands where ':' should", 5],
    ['[1 2]', "'2' stands where ',' or ']' should", 3],
    ['01', 'something follows the document', 1],
    ['1.', 'it ends where a digit should stand', 2],
    ['-x', "'x' stands where a digit should", 1],
    ['NaN', "'N' stands where a value should", 0],
    ['"a\nb"', 'a string holds a control character', 2],
    ['"abc', 'a string does not end', 4],
    [String.raw`"\x"`, "'x' stands where an escape should", 2],
    [String.raw`"\u12g4"`, "'g' stands where a hexadecimal digit should", 5],
    ['nul', "it ends where 'null' should stand", 3],
    ['\ufeff{}', 'byte 0xef stands where a value should', 0],
    ['{"a":1,"b":2,"a":3}', 'the key "a" stands twice in one object', 13],
    [String.raw`{"a":{"b":1,"\u0062":2}}`, 'the key "b" stands twice in one object', 12],
  ];
  test.each(reasons)('%j: %s', (text, reason, offset) => {
    expect(() => raw(text)).toThrow(expect.objectContaining({ code: 'JSON_INVALID', detail: { reason, offset } }));
  });

  test('a byte that is not UTF-8 is named by its place', () => {
    const bytes = Buffer.concat([Buffer.from('{"é":"'), Buffer.from([0xc3, 0x28]), Buffer.from('"}')]);
    expect(() => parseRaw(bytes)).toThrow(
      expect.objectContaining({ detail: { reason: 'it is not UTF-8', offset: 7 } }),
    );
    // A surrogate half written in UTF-8 is no UTF-8.
    expect(() => parseRaw(Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]))).toThrow('it is not UTF-8');
  });

  test('nesting is taken up to the limit and refused one deeper', () => {
    expect(raw(`${'['.repeat(100)}${']'.repeat(100)}`).kind).toBe('array');
    expect(() => raw(`${'['.repeat(101)}${']'.repeat(101)}`)).toThrow('nested deeper than 100');
    expect(() => raw('{"a":{"b":[]}}', 2)).toThrow('nested deeper than 2');
    expect(() => raw('['.repeat(5_000_000))).toThrow('nested deeper than 100');
  });
});
