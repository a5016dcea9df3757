/** Range and conditional headers (RFC 9110), for content whose entity tag is its hash. */

/**
 * What part of `size` bytes a Range header asks for. `undefined`: all of it, since there is no header, it is not one we
 * understand, or it asks for several parts (a server may ignore it then). `'outside'`: answer 416.
 */
export function parseRange(
  header: string | undefined,
  size: number,
): { start: number; length: number } | 'outside' | undefined {
  const match = header && /^bytes=[ \t]*(\d{0,15})-(\d{0,15})[ \t]*$/i.exec(header);
  if (!match) return undefined;
  const [, first, last] = match as unknown as [string, string, string];
  if (first === '') {
    if (last === '') return undefined;
    const length = Math.min(Number(last), size);
    return length === 0 ? 'outside' : { start: size - length, length };
  }
  const start = Number(first);
  if (last !== '' && Number(last) < start) return undefined;
  if (start >= size) return 'outside';
  const end = last === '' ? size - 1 : Math.min(Number(last), size - 1);
  return { start, length: end - start + 1 };
}

/** Whether If-None-Match names this hash: the asker has it already. */
export function isNamed(ifNoneMatch: string | undefined, hash: string): boolean {
  if (ifNoneMatch === undefined) return false;
  if (ifNoneMatch === `"${hash}"`) return true; // what nearly everybody sends
  return ifNoneMatch
    .split(',')
    .map((tag) => tag.trim())
    .some((tag) => tag === '*' || tag === `"${hash}"` || tag === `W/"${hash}"`);
}

/** The answer to a GET or HEAD of content that is kept, less its bytes. */
export interface Answer {
  status: 200 | 206 | 304 | 416;
  /** The part to send: all of it, the range, or nothing. */
  start: number;
  length: number;
}

/** The headers that decide, as Node gives them. */
export interface Asked {
  range?: string | undefined;
  'if-range'?: string | string[] | undefined;
  'if-none-match'?: string | undefined;
}

export function decideAnswer(method: string, asked: Asked, hash: string, size: number): Answer {
  if (isNamed(asked['if-none-match'], hash)) return { status: 304, start: 0, length: 0 };
  const ifRange = asked['if-range'];
  const ranged = method === 'GET' && (ifRange === undefined || ifRange === `"${hash}"`);
  const range = ranged ? parseRange(asked.range, size) : undefined;
  if (range === 'outside') return { status: 416, start: 0, length: 0 };
  return range ? { status: 206, ...range } : { status: 200, start: 0, length: size };
}
