/**
 * As much of DER as revocation lists and Puppet's extensions need: values with one-byte tags and definite lengths, read in
 * place and written back. Certificates themselves are the library's business.
 */

/** One value: its tag, where it and its content begin, where it ends, in the bytes it was read from. */
export interface DerValue {
  bytes: Buffer;
  tag: number;
  start: number;
  content: number;
  end: number;
}

export const INTEGER = 0x02;
export const BIT_STRING = 0x03;
export const OCTET_STRING = 0x04;
export const NULL = 0x05;
export const OID = 0x06;
export const ENUMERATED = 0x0a;
export const UTF8_STRING = 0x0c;
export const IA5_STRING = 0x16;
export const UTC_TIME = 0x17;
export const GENERALIZED_TIME = 0x18;
export const SEQUENCE = 0x30;

/** The value that begins at `start`. Throws where it does not fit into the bytes. */
export function readDer(bytes: Buffer, start = 0, limit = bytes.length): DerValue {
  const tag = bytes[start];
  const first = bytes[start + 1];
  if (tag === undefined || first === undefined || start + 2 > limit) throw new Error('DER ends too early');
  let content = start + 2;
  let length = first;
  if (first >= 0x80) {
    const size = first & 0x7f;
    content += size;
    if (size === 0 || size > 4 || content > limit) throw new Error('DER has a length of a strange form');
    length = bytes.readUIntBE(start + 2, size);
  }
  const end = content + length;
  if (end > limit) throw new Error('DER ends too early');
  return { bytes, tag, start, content, end };
}

/** The values inside a constructed one, in order. */
export function derChildren({ bytes, content, end }: DerValue): DerValue[] {
  const children: DerValue[] = [];
  for (let at = content; at < end; at = children.at(-1)!.end) children.push(readDer(bytes, at, end));
  return children;
}

/** A value's content. */
export function derContent({ bytes, content, end }: DerValue): Buffer {
  return bytes.subarray(content, end);
}

/** A whole value, tag and length included. */
export function derWhole({ bytes, start, end }: DerValue): Buffer {
  return bytes.subarray(start, end);
}

/** Writes one value. */
export function der(tag: number, ...contents: Uint8Array[]): Buffer<ArrayBuffer> {
  const size = contents.reduce((sum, each) => sum + each.length, 0);
  const length: number[] = [];
  if (size < 0x80) length.push(size);
  else {
    for (let rest = size; rest > 0; rest = Math.floor(rest / 256)) length.unshift(rest % 256);
    length.unshift(0x80 | length.length);
  }
  return Buffer.concat([Buffer.from([tag, ...length]), ...contents]);
}

/** A positive whole number from its hexadecimal digits. */
export function derInteger(hex: string): Buffer<ArrayBuffer> {
  const bytes = Buffer.from(hex.length % 2 ? `0${hex}` : hex, 'hex');
  return der(INTEGER, bytes[0]! & 0x80 ? Buffer.concat([Buffer.from([0]), bytes]) : bytes);
}

/** A time as X.509 wants it: two digits for the year before 2050, four from then on; whole seconds. */
export function derTime(time: Date): Buffer<ArrayBuffer> {
  const digits = `${time.toISOString().slice(0, 19).replace(/[-:T]/g, '')}Z`;
  return time.getUTCFullYear() < 2050
    ? der(UTC_TIME, Buffer.from(digits.slice(2), 'latin1'))
    : der(GENERALIZED_TIME, Buffer.from(digits, 'latin1'));
}

export function readDerTime(value: DerValue): Date {
  const text = derContent(value).toString('latin1');
  const short = value.tag === UTC_TIME;
  const year = short ? (Number(text.slice(0, 2)) < 50 ? '20' : '19') + text.slice(0, 2) : text.slice(0, 4);
  const [month, day, hour, minute, second] = text.slice(short ? 2 : 4).match(/\d\d/g) ?? [];
  return new Date(`${year}-${month}-${day}T${hour}:${minute}:${second ?? '00'}Z`);
}
