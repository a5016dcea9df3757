/**
 * A strict JSON reader that keeps the bytes. `JSON.parse` rounds 64-bit integers, forgets how 1.0 was written, and lets the
 * last of two equal keys win; what nodes say must come out as it went in. So this reader checks a document once (UTF-8, the
 * grammar of RFC 8259, depth, no key twice in an object) and then only points at it: every value is a span of the bytes.
 *
 * The check writes a tape: for each value and key, in the order of the document, its start, its end, and the index of the
 * entry after its subtree. Going down or sideways is then a look at the tape, never a second scan, and costs 12 bytes a value.
 */
import { isUtf8 } from 'node:buffer';
import { CallboardError } from './errors.ts';
import { JSON_DEPTH_MAX } from './limits.ts';

export type RawKind = 'object' | 'array' | 'string' | 'number' | 'boolean' | 'null';

export interface RawMember {
  /** The key with its escapes resolved. */
  key: string;
  /** Where the key's opening quote stands, in bytes from the start of the document. */
  start: number;
  value: RawValue;
}

/**
 * The value of a whole document. Throws JSON_INVALID, with the byte and the reason, for anything but one JSON text in UTF-8
 * without a byte order mark; for containers nested deeper than `depthMax`; for a key that stands twice in one object.
 */
export function parseRaw(document: Buffer, depthMax: number = JSON_DEPTH_MAX): RawValue {
  if (!isUtf8(document)) throw invalid('it is not UTF-8', firstDifference(document));
  const check = new Check(document, depthMax);
  const start = afterSpace(document, 0);
  const end = afterSpace(document, check.value(start, 0));
  if (end < document.length) throw invalid('something follows the document', end);
  return new RawValue(document, check.tape, 0);
}

/** One value of a checked document: its span, and what is inside, on demand. */
export class RawValue {
  /** The whole document that this value is a part of. */
  readonly document: Buffer;
  readonly #tape: Int32Array;
  readonly #entry: number;

  constructor(document: Buffer, tape: Int32Array, entry: number) {
    this.document = document;
    this.#tape = tape;
    this.#entry = entry;
  }

  /** Where its first byte stands in the document. */
  get start(): number {
    return this.#tape[this.#entry]!;
  }

  /** Where the byte after its last one stands in the document. */
  get end(): number {
    return this.#tape[this.#entry + 1]!;
  }

  /** Its bytes as they were written; a view, not a copy. */
  get bytes(): Buffer {
    return this.document.subarray(this.start, this.end);
  }

  /** Its text as it was written. */
  get text(): string {
    return this.document.toString('utf8', this.start, this.end);
  }

  get kind(): RawKind {
    return KINDS[this.document[this.start]!] ?? 'number';
  }

  /** The members of an object in the order they were written; of anything else, none. */
  members(): RawMember[] {
    const members: RawMember[] = [];
    if (this.document[this.start] !== OPEN_BRACE) return members;
    const tape = this.#tape;
    const end = tape[this.#entry + 2]!;
    for (let entry = this.#entry + 3; entry < end; entry = tape[entry + 5]!) {
      const start = tape[entry]!;
      const value = new RawValue(this.document, tape, entry + 3);
      members.push({ key: keyText(this.document, start, tape[entry + 1]!), start, value });
    }
    return members;
  }

  /** One member of an object. */
  member(key: string): RawValue | undefined {
    return this.members().find((member) => member.key === key)?.value;
  }

  /** The items of an array; of anything else, none. */
  items(): RawValue[] {
    const items: RawValue[] = [];
    if (this.document[this.start] !== OPEN_BRACKET) return items;
    const tape = this.#tape;
    const end = tape[this.#entry + 2]!;
    for (let entry = this.#entry + 3; entry < end; entry = tape[entry + 2]!)
      items.push(new RawValue(this.document, tape, entry));
    return items;
  }

  /** The text that a string means, its escapes resolved; of anything else, undefined. */
  string(): string | undefined {
    return this.document[this.start] === QUOTE ? keyText(this.document, this.start, this.end) : undefined;
  }

  /** The number that a number means, if it is an integer that a double holds exactly; else undefined. */
  integer(): number | undefined {
    if (this.kind !== 'number') return undefined;
    const number = Number(this.text);
    return Number.isSafeInteger(number) ? number : undefined;
  }

  /** What `JSON.parse` makes of it: for looking at, since large integers are rounded. */
  parsed(): unknown {
    return JSON.parse(this.text);
  }
}

const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const PLUS = 0x2b;
const DOT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const COLON = 0x3a;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

const KINDS: Record<number, RawKind | undefined> = {
  [OPEN_BRACE]: 'object',
  [OPEN_BRACKET]: 'array',
  [QUOTE]: 'string',
  116: 'boolean',
  102: 'boolean',
  110: 'null',
};
const TRUE = Buffer.from('true');
const FALSE = Buffer.from('false');
const NULL = Buffer.from('null');

/** The one pass over the bytes. Its methods take where a thing begins and give where it ends. */
class Check {
  readonly bytes: Buffer;
  readonly depthMax: number;
  /** Triples: start, end, index of the entry after the subtree. */
  tape: Int32Array;
  length = 0;

  constructor(bytes: Buffer, depthMax: number) {
    this.bytes = bytes;
    this.depthMax = depthMax;
    // Facts have a value or key about every 12 bytes; a guess that is too small doubles.
    this.tape = new Int32Array(Math.max(48, bytes.length >> 2));
  }

  /** `depth`: how many containers this value stands in. */
  value(at: number, depth: number): number {
    const entry = this.#open(at);
    const end = this.#end(at, depth);
    this.#close(entry, end);
    return end;
  }

  #end(at: number, depth: number): number {
    const byte = this.bytes[at];
    if (byte === QUOTE) return this.#string(at);
    if (byte === OPEN_BRACE) return this.#object(at, depth + 1);
    if (byte === OPEN_BRACKET) return this.#array(at, depth + 1);
    if (byte === MINUS || isDigit(byte)) return this.#number(at);
    if (byte === 0x74) return this.#word(at, TRUE);
    if (byte === 0x66) return this.#word(at, FALSE);
    if (byte === 0x6e) return this.#word(at, NULL);
    throw this.#unexpected(at, 'a value');
  }

  #object(start: number, depth: number): number {
    if (depth > this.depthMax) throw invalid(`it is nested deeper than ${this.depthMax}`, start);
    const { bytes } = this;
    let at = afterSpace(bytes, start + 1);
    if (bytes[at] === CLOSE_BRACE) return at + 1;
    // Most objects are small, and a set costs more than they do: only the second key needs one.
    let first: string | undefined;
    let keys: Set<string> | undefined;
    for (;;) {
      if (bytes[at] !== QUOTE) throw this.#unexpected(at, 'a key');
      const entry = this.#open(at);
      const keyEnd = this.#string(at);
      this.#close(entry, keyEnd);
      const key = keyText(bytes, at, keyEnd);
      if (first === undefined) first = key;
      else {
        keys ??= new Set([first]);
        if (keys.size === keys.add(key).size) throw invalid(`the key ${shownKey(key)} stands twice in one object`, at);
      }
      at = afterSpace(bytes, keyEnd);
      if (bytes[at] !== COLON) throw this.#unexpected(at, "':'");
      at = afterSpace(bytes, this.value(afterSpace(bytes, at + 1), depth));
      if (bytes[at] === CLOSE_BRACE) return at + 1;
      if (bytes[at] !== COMMA) throw this.#unexpected(at, "',' or '}'");
      at = afterSpace(bytes, at + 1);
    }
  }

  #array(start: number, depth: number): number {
    if (depth > this.depthMax) throw invalid(`it is nested deeper than ${this.depthMax}`, start);
    const { bytes } = this;
    let at = afterSpace(bytes, start + 1);
    if (bytes[at] === CLOSE_BRACKET) return at + 1;
    for (;;) {
      at = afterSpace(bytes, this.value(at, depth));
      if (bytes[at] === CLOSE_BRACKET) return at + 1;
      if (bytes[at] !== COMMA) throw this.#unexpected(at, "',' or ']'");
      at = afterSpace(bytes, at + 1);
    }
  }

  #string(start: number): number {
    const { bytes } = this;
    let at = start + 1;
    for (;;) {
      const byte = bytes[at];
      if (byte === QUOTE) return at + 1;
      if (byte === undefined) throw invalid('a string does not end', at);
      if (byte === BACKSLASH) at = this.#escape(at);
      else if (byte < 0x20) throw invalid('a string holds a control character', at);
      else at += 1;
    }
  }

  #escape(start: number): number {
    switch (this.bytes[start + 1]) {
      case QUOTE:
      case BACKSLASH:
      case 0x2f: // /
      case 0x62: // b
      case 0x66: // f
      case 0x6e: // n
      case 0x72: // r
      case 0x74: // t
        return start + 2;
      case 0x75: // u
        for (let at = start + 2; at < start + 6; at += 1)
          if (!isHex(this.bytes[at])) throw this.#unexpected(at, 'a hexadecimal digit');
        return start + 6;
      default:
        throw this.#unexpected(start + 1, 'an escape');
    }
  }

  #number(start: number): number {
    const { bytes } = this;
    let at = bytes[start] === MINUS ? start + 1 : start;
    if (bytes[at] === ZERO) at += 1;
    else at = this.#digits(at);
    if (bytes[at] === DOT) at = this.#digits(at + 1);
    if (bytes[at] === 0x65 || bytes[at] === 0x45) {
      at += 1;
      if (bytes[at] === PLUS || bytes[at] === MINUS) at += 1;
      at = this.#digits(at);
    }
    return at;
  }

  #digits(start: number): number {
    let at = start;
    while (isDigit(this.bytes[at])) at += 1;
    if (at === start) throw this.#unexpected(at, 'a digit');
    return at;
  }

  #word(start: number, word: Buffer): number {
    for (let i = 1; i < word.length; i += 1)
      if (this.bytes[start + i] !== word[i]) throw this.#unexpected(start + i, `'${word}'`);
    return start + word.length;
  }

  #open(start: number): number {
    const entry = this.length;
    if (entry + 3 > this.tape.length) {
      const grown = new Int32Array(this.tape.length * 2);
      grown.set(this.tape);
      this.tape = grown;
    }
    this.tape[entry] = start;
    this.length = entry + 3;
    return entry;
  }

  #close(entry: number, end: number): void {
    this.tape[entry + 1] = end;
    this.tape[entry + 2] = this.length;
  }

  #unexpected(at: number, wanted: string): CallboardError {
    const byte = this.bytes[at];
    if (byte === undefined) return invalid(`it ends where ${wanted} should stand`, at);
    const found =
      byte > 0x20 && byte < 0x7f ? `'${String.fromCharCode(byte)}'` : `byte 0x${byte.toString(16).padStart(2, '0')}`;
    return invalid(`${found} stands where ${wanted} should`, at);
  }
}

function afterSpace(bytes: Buffer, start: number): number {
  let at = start;
  for (;;) {
    const byte = bytes[at];
    if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return at;
    at += 1;
  }
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= ZERO && byte <= NINE;
}

function isHex(byte: number | undefined): boolean {
  return isDigit(byte) || (byte !== undefined && (byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x66);
}

/** What a checked string means. */
function keyText(bytes: Buffer, start: number, end: number): string {
  const text = bytes.toString('utf8', start + 1, end - 1);
  return text.includes('\\') ? (JSON.parse(`"${text}"`) as string) : text;
}

function shownKey(key: string): string {
  return JSON.stringify(key.length > 100 ? `${key.slice(0, 100)}…` : key);
}

/** Decoding puts U+FFFD in the place of the first wrong byte: there the bytes part. */
function firstDifference(document: Buffer): number {
  const mended = Buffer.from(document.toString('utf8'));
  let at = 0;
  while (at < document.length && document[at] === mended[at]) at += 1;
  return at;
}

function invalid(reason: string, offset: number): CallboardError {
  return new CallboardError('JSON_INVALID', { reason, offset });
}
