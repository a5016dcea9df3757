/** Readers of bodies: right for any bytes in any pieces, bounded for any sender, and still able to answer. */
import { request as httpRequest } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { PassThrough, Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import pino from 'pino';
import { Type } from 'typebox';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type App, buildApp } from '../../src/http/app.ts';
import { type BodySource, readBody, readLines } from '../../src/http/body.ts';
import { parseJsonBody } from '../../src/http/json-body.ts';

/** A body that comes in the given pieces. */
function source(pieces: Buffer[], headers: Record<string, string> = {}): BodySource {
  return { headers, raw: Readable.from(pieces, { objectMode: false }) };
}

/** `bytes` cut at the given places, wherever those fall. */
function cut(bytes: Buffer, places: number[]): Buffer[] {
  const at = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...at]
    .map((start, index) => bytes.subarray(start, at[index] ?? bytes.length))
    .filter((piece) => piece.length > 0);
}

async function lines(from: BodySource, limits = { lineBytesMax: 10_000, bodyBytesMax: 100_000 }): Promise<Buffer[]> {
  const found: Buffer[] = [];
  for await (const line of readLines(from, limits)) found.push(Buffer.from(line));
  return found;
}

const places = fc.array(fc.nat(), { maxLength: 20 });
const bytes = fc.uint8Array({ maxLength: 5000 }).map((array) => Buffer.from(array));

describe('any bytes in any pieces', () => {
  test('come whole, zipped or not', async () => {
    await fc.assert(
      fc.asyncProperty(bytes, places, fc.boolean(), async (body, at, zip) => {
        const sent = zip ? gzipSync(body) : body;
        const headers: Record<string, string> = zip ? { 'content-encoding': 'gzip' } : {};
        expect(await readBody(source(cut(sent, at), headers), { max: 100_000, gzip: true })).toEqual(body);
      }),
    );
  });

  test('come as the lines that a split of the whole gives, less the empty ones', async () => {
    const text = fc
      .array(fc.oneof(fc.constant('\n'), fc.string({ unit: 'grapheme', maxLength: 50 })), { maxLength: 60 })
      .map((parts) => Buffer.from(parts.join('')));
    await fc.assert(
      fc.asyncProperty(text, places, fc.boolean(), async (body, at, zip) => {
        const sent = zip ? gzipSync(body) : body;
        const headers: Record<string, string> = zip ? { 'content-encoding': 'gzip' } : {};
        const due = body
          .toString('latin1')
          .split('\n')
          .filter((line) => line !== '');
        expect((await lines(source(cut(sent, at), headers))).map((line) => line.toString('latin1'))).toEqual(due);
      }),
    );
  });

  test('that are no gzip, or broken gzip, give ENCODING_BROKEN or a clean answer, and nothing else', async () => {
    const damaged = fc.tuple(bytes, fc.nat(), fc.nat(255), fc.nat()).map(([body, at, value, end]) => {
      const zipped = gzipSync(body);
      zipped[at % zipped.length] = value;
      return zipped.subarray(0, 1 + (end % zipped.length));
    });
    await fc.assert(
      fc.asyncProperty(fc.oneof(bytes, damaged), places, async (sent, at) => {
        const headers = { 'content-encoding': 'gzip' };
        for (const read of [
          () => readBody(source(cut(sent, at), headers), { max: 100_000, gzip: true }),
          () => lines(source(cut(sent, at), headers)),
        ]) {
          const code = await read().then(
            () => 'whole',
            (error) => error.code,
          );
          expect(['whole', 'ENCODING_BROKEN']).toContain(code);
        }
      }),
    );
  });

  test('never pass their limits', async () => {
    await fc.assert(
      fc.asyncProperty(bytes, places, fc.integer({ min: 1, max: 6000 }), fc.boolean(), async (body, at, max, zip) => {
        const sent = zip ? gzipSync(body) : body;
        const headers: Record<string, string> = zip ? { 'content-encoding': 'gzip' } : {};
        const outcome = await readBody(source(cut(sent, at), headers), { max, gzip: true }).then(
          (whole) => whole.length,
          (error) => error.code,
        );
        expect(outcome).toBe(sent.length > max || body.length > max ? 'BODY_TOO_LARGE' : body.length);
        const limits = { lineBytesMax: max, bodyBytesMax: 100_000 };
        const longest = Math.max(
          0,
          ...body
            .toString('latin1')
            .split('\n')
            .map((line) => line.length),
        );
        const found = await lines(source(cut(sent, at), headers), limits).then(
          () => 'whole',
          (error) => error.code,
        );
        expect(found).toBe(longest > max ? 'LINE_TOO_LONG' : 'whole');
      }),
    );
  });
});

describe('JSON bodies', () => {
  test('are what JSON.parse says, for any document', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        let value: unknown;
        try {
          value = parseJsonBody(Buffer.from(text));
        } catch {
          // fast-check makes such keys, too.
          expect(text).toMatch(/__proto__/);
          return;
        }
        expect(value).toEqual(JSON.parse(text));
      }),
    );
  });

  test('that are anything else are refused with a code, for any bytes', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          bytes,
          fc.string().map((text) => Buffer.from(text)),
        ),
        (body) => {
          try {
            expect(parseJsonBody(body)).toEqual(body.length === 0 ? undefined : JSON.parse(body.toString()));
          } catch (error) {
            expect((error as { code?: string }).code).toBe('JSON_INVALID');
          }
        },
      ),
    );
  });

  test.each([
    ['a key twice', '{"a":1,"a":2}'],
    ['a key twice, spelt in two ways', '{"a":1,"\\u0061":2}'],
    ['a magic key', '{"__proto__":{"role":"admin"}}'],
    ['a magic key deep inside and disguised', '{"a":[{"\\u005f_proto__":1}]}'],
    ['deeper than anybody needs', '['.repeat(101) + ']'.repeat(101)],
    ['deep as the sea', '['.repeat(500_000)],
    ['two documents', '{} {}'],
    ['no UTF-8', Buffer.from([0x22, 0xff, 0x22])],
    ['a lone surrogate half in bytes', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22])],
    ['NaN', '{"a":NaN}'],
  ])('refuse %s', (_, text) => {
    expect(() => parseJsonBody(Buffer.from(text as string))).toThrow(expect.objectContaining({ status: 400 }));
  });
});

describe('senders', () => {
  test('that stall are given up, and the request still stands', async () => {
    const raw = new PassThrough();
    raw.write('abc\nde');
    await expect(readBody({ headers: {}, raw }, { max: 100, stallMs: 50 })).rejects.toMatchObject({
      code: 'BODY_STALLED',
    });
    expect(raw.destroyed).toBe(false);
    const other = new PassThrough();
    other.write('abc\nde');
    const reader = readLines({ headers: {}, raw: other }, { lineBytesMax: 10, bodyBytesMax: 100, stallMs: 50 });
    expect(String((await reader.next()).value)).toBe('abc');
    await expect(reader.next()).rejects.toMatchObject({ code: 'BODY_STALLED' });
    expect(other.destroyed).toBe(false);
  });

  test('that drip are given up after the whole time', async () => {
    const raw = new PassThrough();
    const drip = setInterval(() => raw.write('x'), 10);
    await expect(readBody({ headers: {}, raw }, { max: 1000, stallMs: 1000, timeMs: 100 })).rejects.toMatchObject({
      code: 'BODY_STALLED',
    });
    clearInterval(drip);
  });

  test('that go away leave no half line behind', async () => {
    const raw = new PassThrough();
    raw.write('one\ntw');
    const found: string[] = [];
    const reading = (async () => {
      for await (const line of readLines({ headers: {}, raw }, { lineBytesMax: 10, bodyBytesMax: 100 }))
        found.push(String(line));
    })();
    setTimeout(() => raw.destroy(), 20);
    await expect(reading).rejects.toThrow();
    expect(found).toEqual(['one']);
    const whole = new PassThrough();
    whole.write('half');
    setTimeout(() => whole.destroy(), 20);
    await expect(readBody({ headers: {}, raw: whole }, { max: 100 })).rejects.toMatchObject({
      code: 'REQUEST_ABORTED',
    });
  });

  test('of other encodings, and of lengths too great, are refused before a byte is read', async () => {
    for (const value of ['br', 'deflate', 'gzip, gzip', 'zstd']) {
      await expect(readBody(source([], { 'content-encoding': value }), { max: 10, gzip: true })).rejects.toMatchObject({
        code: 'ENCODING_UNSUPPORTED',
      });
    }
    await expect(readBody(source([], { 'content-encoding': 'gzip' }), { max: 10 })).rejects.toMatchObject({
      code: 'ENCODING_UNSUPPORTED',
    });
    await expect(readBody(source([], { 'content-length': '11' }), { max: 10 })).rejects.toMatchObject({
      code: 'BODY_TOO_LARGE',
    });
  });

  test('of bombs cost no more than the limit', async () => {
    // 256 MiB of zeros in 260 KiB.
    const bomb = gzipSync(Buffer.alloc(256 * 1024 * 1024));
    expect(bomb.length).toBeLessThan(300_000);
    const before = process.memoryUsage();
    const headers = { 'content-encoding': 'gzip' };
    await expect(readBody(source([bomb], headers), { max: 1024 * 1024, gzip: true })).rejects.toMatchObject({
      code: 'BODY_TOO_LARGE',
    });
    const began = performance.now();
    await expect(
      lines(source([bomb], headers), { lineBytesMax: 2 ** 30, bodyBytesMax: 1024 * 1024 }),
    ).rejects.toMatchObject({ code: 'BODY_TOO_LARGE' });
    expect(performance.now() - began).toBeLessThan(10_000);
    const after = process.memoryUsage();
    expect(after.external - before.external).toBeLessThan(64 * 1024 * 1024);
  });
});

describe('over a real socket', () => {
  let app: App;
  let port: number;
  beforeAll(async () => {
    app = await buildApp({
      logger: pino({ enabled: false }),
      identify: () => ({ kind: 'anonymous' }),
      rooms: [
        (app) => {
          const config = { access: 'public' } as const;
          app.put(
            '/small',
            { config },
            async (request) => (await readBody(request, { max: 1000, gzip: true, stallMs: 200 })).length,
          );
          app.post('/lines', { config }, async (request) => {
            let count = 0;
            for await (const line of readLines(request, { lineBytesMax: 100, bodyBytesMax: 100_000_000 }))
              count += line.length > 0 ? 1 : 0;
            return { count };
          });
          app.post(
            '/json',
            { config, schema: { body: Type.Object({ name: Type.String() }, { additionalProperties: false }) } },
            (request) => request.body,
          );
          app.put('/unread', { config }, (_, reply) => reply.status(409).send({ ok: false }));
          const querystring = Type.Object({
            limit: Type.Integer({ minimum: 1, default: 7 }),
            all: Type.Optional(Type.Boolean()),
            tags: Type.Optional(Type.Array(Type.String())),
          });
          app.get('/query', { config, schema: { querystring } }, (request) => request.query);
        },
      ],
    });
    await app.listen({ port: 0, host: '127.0.0.1' });
    port = (app.server.address() as AddressInfo).port;
  });
  afterAll(() => app.close());

  function send(method: string, path: string, body: Buffer | string, headers: Record<string, string> = {}) {
    return new Promise<{ status: number; body: { code?: string; message?: string } }>((resolve, reject) => {
      const request = httpRequest({ port, method, path, headers, agent: false }, (response) => {
        let text = '';
        response.on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode!, body: JSON.parse(text) }));
      });
      request.on('error', reject);
      request.end(body);
    });
  }

  test('lines are streamed, gzip included', async () => {
    const body = 'x\n'.repeat(100_000);
    expect((await send('POST', '/lines', body)).body).toEqual({ count: 100_000 });
    expect((await send('POST', '/lines', gzipSync(body), { 'content-encoding': 'gzip' })).body).toEqual({
      count: 100_000,
    });
  });

  test.each([
    ['too large', 'PUT', '/small', Buffer.alloc(2_000_000), {}, 413, 'BODY_TOO_LARGE'],
    [
      'too large in chunks',
      'PUT',
      '/small',
      Buffer.alloc(2_000_000),
      { 'transfer-encoding': 'chunked' },
      413,
      'BODY_TOO_LARGE',
    ],
    [
      'a bomb',
      'PUT',
      '/small',
      gzipSync(Buffer.alloc(1_000_000)),
      { 'content-encoding': 'gzip', 'transfer-encoding': 'chunked' },
      413,
      'BODY_TOO_LARGE',
    ],
    ['no gzip', 'PUT', '/small', 'hello', { 'content-encoding': 'gzip' }, 400, 'ENCODING_BROKEN'],
    ['brotli', 'PUT', '/small', 'hello', { 'content-encoding': 'br' }, 415, 'ENCODING_UNSUPPORTED'],
    ['a long line', 'POST', '/lines', `ok\n${'x'.repeat(2_000_000)}\n`, {}, 413, 'LINE_TOO_LONG'],
    [
      'broken gzip lines',
      'POST',
      '/lines',
      Buffer.concat([gzipSync('a\n'.repeat(1000)).subarray(0, 10), Buffer.alloc(1_000_000, 0xff)]),
      { 'content-encoding': 'gzip' },
      400,
      'ENCODING_BROKEN',
    ],
    ['no JSON', 'POST', '/json', '{"name":', { 'content-type': 'application/json' }, 400, 'JSON_INVALID'],
    [
      'another type',
      'POST',
      '/json',
      'name=x',
      { 'content-type': 'application/x-www-form-urlencoded' },
      415,
      'BODY_TYPE_UNSUPPORTED',
    ],
    ['the wrong shape', 'POST', '/json', '{"name":5}', { 'content-type': 'application/json' }, 400, 'REQUEST_INVALID'],
    [
      'one property more',
      'POST',
      '/json',
      '{"name":"a","role":"admin"}',
      { 'content-type': 'application/json' },
      400,
      'REQUEST_INVALID',
    ],
    ['nothing', 'POST', '/json', '', { 'content-type': 'application/json' }, 400, 'REQUEST_INVALID'],
    [
      'a body for the API that is too large',
      'POST',
      '/json',
      `{"name":"${'x'.repeat(1_100_000)}"}`,
      { 'content-type': 'application/json' },
      413,
      'BODY_TOO_LARGE',
    ],
  ] as [string, string, string, Buffer | string, Record<string, string>, number, string][])(
    'a refusal reaches its sender: %s',
    async (_, method, path, body, headers, status, code) => {
      const answer = await send(method, path, body, headers);
      expect(answer.status).toBe(status);
      expect(answer.body.code).toBe(code);
    },
  );

  test('JSON is read whatever the case and parameters of its type, and may be zipped', async () => {
    expect(
      (await send('POST', '/json', '{"name":"a"}', { 'content-type': 'Application/JSON; charset=utf-8' })).body,
    ).toEqual({ name: 'a' });
    const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' };
    expect((await send('POST', '/json', gzipSync('{"name":"a"}'), headers)).body).toEqual({ name: 'a' });
  });

  test('queries are converted to their types, filled from defaults, and refused beyond', async () => {
    expect((await send('GET', '/query?limit=12&all=true&tags=a', '')).body).toEqual({
      limit: 12,
      all: true,
      tags: ['a'],
    });
    expect((await send('GET', '/query?tags=a&tags=b', '')).body).toEqual({ limit: 7, tags: ['a', 'b'] });
    for (const query of ['limit=0', 'limit=x', 'limit=1.5', 'limit=', 'limit=0x10', 'limit=1e3', 'all=maybe', 'all=1'])
      expect((await send('GET', `/query?${query}`, '')).status).toBe(400);
  });

  test('a stalled body is answered 408', async () => {
    const answer = await raw('PUT /small HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\nabc', 3000);
    expect(answer).toMatch(/^HTTP\/1\.1 408 /);
    expect(answer).toContain('BODY_STALLED');
  });

  test('what a handler leaves unread is read off, and the connection serves on', async () => {
    const first = `PUT /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n${'x'.repeat(1_000_000)}`;
    const answer = await raw(`${first}GET /query HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`, 5000);
    expect(answer.match(/HTTP\/1\.1 (\d+)/g)).toEqual(['HTTP/1.1 409', 'HTTP/1.1 200']);
  });

  test('who sends on and on after a refusal is hung up on', async () => {
    let sent = 0;
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    const closed = new Promise((resolve) => socket.on('close', resolve));
    socket.write('PUT /unread HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n');
    const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`;
    const pump = (): void => {
      while (!socket.destroyed && sent < 1e9 && socket.write(chunk)) sent += chunk.length;
      sent += chunk.length;
    };
    socket.on('drain', pump);
    socket.on('data', () => {});
    pump();
    await closed;
    expect(sent).toBeLessThan(50_000_000);
  });

  function raw(bytes: string, timeMs: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
      let answer = '';
      socket.setTimeout(timeMs, () => socket.destroy());
      socket.on('data', (chunk) => {
        answer += chunk;
        if (/ 408 [\s\S]*\}$/.test(answer)) socket.destroy();
      });
      socket.on('close', () => resolve(answer));
      socket.on('error', reject);
    });
  }
});
