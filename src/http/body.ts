/**
 * Reading bodies, bounded: whole ones into memory, NDJSON line by line. Both understand gzip, stop at the first byte beyond
 * their limit (counted before *and* after decompression, so that a small bomb stays small), and give up on senders that
 * stall. On a refusal the request is left standing, not destroyed, so that its sender can be answered.
 */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { createGunzip, gunzip } from 'node:zlib';
import type { FastifyRequest } from 'fastify';
import { CallboardError } from '../model/errors.ts';
import {
  BODIES_MEMORY_BYTES_MAX,
  BODY_DRAIN_BYTES_MAX,
  BODY_DRAIN_MAX_MS,
  BODY_STALL_MAX_MS,
  BODY_TIME_MAX_MS,
} from '../model/limits.ts';

const inflate = promisify<Buffer, { maxOutputLength: number }, Buffer>(gunzip);

export interface BodyOptions {
  /** Bytes, as sent and as decompressed. */
  max: number;
  /** Accept `Content-Encoding: gzip`. */
  gzip?: boolean;
  /** No byte for this long: BODY_STALLED. */
  stallMs?: number;
  /** The whole body must have come by then: BODY_STALLED. */
  timeMs?: number;
}

export interface LineOptions {
  lineBytesMax: number;
  /** Bytes of the whole body, as sent and as decompressed. */
  bodyBytesMax: number;
  stallMs?: number;
}

/** What carries a body: a Fastify request, or what a content-type parser is given. */
export type BodySource = Pick<FastifyRequest, 'headers'> & { raw: Readable };

const DRAIN_LOOK_MS = 20;

/** Bytes of bodies that are being read into memory at this moment. */
let heldBytes = 0;

/**
 * The whole body, decompressed. Throws BODY_TOO_LARGE, BODY_STALLED, BUSY, ENCODING_UNSUPPORTED or ENCODING_BROKEN; or
 * REQUEST_ABORTED.
 */
export async function readBody(request: BodySource, options: BodyOptions): Promise<Buffer> {
  const zipped = isGzip(request, options.gzip ?? false);
  checkLength(request, options.max);
  let held = 0;
  const hold = (bytes: number): void => {
    held += bytes;
    heldBytes += bytes;
    if (heldBytes > BODIES_MEMORY_BYTES_MAX) {
      throw new CallboardError('BUSY', { reason: 'Too many large bodies are being read at once' });
    }
  };
  try {
    const sent = await collect(request.raw, options, hold);
    if (!zipped) return sent;
    try {
      return await inflate(sent, { maxOutputLength: options.max });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') {
        throw new CallboardError('BODY_TOO_LARGE', { max: options.max });
      }
      throw new CallboardError('ENCODING_BROKEN', { reason: (error as Error).message });
    }
  } finally {
    heldBytes -= held;
  }
}

/**
 * The body's lines as they come, without their newline; empty lines are left out, a last line needs no newline. Throws as
 * `readBody` does, and LINE_TOO_LONG; lines given out before stay given out.
 */
export async function* readLines(request: BodySource, options: LineOptions): AsyncGenerator<Buffer, void, undefined> {
  const zipped = isGzip(request, true);
  checkLength(request, options.bodyBytesMax);
  let parts: Buffer[] = [];
  let partBytes = 0;
  let line = 1;
  for await (const chunk of chunks(request.raw, zipped, options)) {
    let start = 0;
    for (let end = chunk.indexOf(10, start); ; end = chunk.indexOf(10, start)) {
      const stop = end < 0 ? chunk.length : end;
      if (partBytes + stop - start > options.lineBytesMax) {
        throw new CallboardError('LINE_TOO_LONG', { line, max: options.lineBytesMax });
      }
      const piece = chunk.subarray(start, stop);
      if (end < 0) {
        if (piece.length > 0) parts.push(piece);
        partBytes += piece.length;
        break;
      }
      if (partBytes + piece.length > 0) yield parts.length === 0 ? piece : Buffer.concat([...parts, piece]);
      parts = [];
      partBytes = 0;
      line++;
      start = end + 1;
    }
  }
  if (partBytes > 0) yield parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

/** The body's bytes as they come, for who needs them but once. Throws BODY_TOO_LARGE, BODY_STALLED, REQUEST_ABORTED. */
export function readChunks(request: BodySource, options: { max: number }): AsyncGenerator<Buffer, void, undefined> {
  checkLength(request, options.max);
  return chunks(request.raw, false, { bodyBytesMax: options.max, lineBytesMax: options.max });
}

/**
 * Has what a handler left unread of a body read off, so that the sender sees the answer and the connection can be used again.
 * Who sends on and on is hung up on. Node throws the bytes away before anybody could count them, so the socket's own count
 * is looked at.
 */
export function drainBody(raw: IncomingMessage): void {
  if (raw.complete !== false || raw.readableEnded || raw.destroyed) return;
  const { socket } = raw;
  const until = performance.now() + BODY_DRAIN_MAX_MS;
  const bytesMax = socket.bytesRead + BODY_DRAIN_BYTES_MAX;
  const timer = setInterval(() => {
    if (raw.complete || socket.destroyed) clearInterval(timer);
    else if (socket.bytesRead > bytesMax || performance.now() > until) socket.destroy();
  }, DRAIN_LOOK_MS);
  socket.once('close', () => clearInterval(timer));
  raw.on('error', () => {});
  raw.resume();
}

function isGzip(request: BodySource, allowed: boolean): boolean {
  const value = request.headers['content-encoding']?.toLowerCase();
  if (value === undefined || value === 'identity') return false;
  if (allowed && (value === 'gzip' || value === 'x-gzip')) return true;
  throw new CallboardError('ENCODING_UNSUPPORTED', { value });
}

/** A body that says beforehand that it is too large is not read at all. */
function checkLength(request: BodySource, max: number): void {
  if (Number(request.headers['content-length'] ?? 0) > max) throw new CallboardError('BODY_TOO_LARGE', { max });
}

function collect(raw: Readable, options: BodyOptions, hold: (bytes: number) => void): Promise<Buffer> {
  const stallMs = options.stallMs ?? BODY_STALL_MAX_MS;
  const until = performance.now() + (options.timeMs ?? BODY_TIME_MAX_MS);
  const stall = new CallboardError('BODY_STALLED', { ms: stallMs });
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const parts: Buffer[] = [];
  let size = 0;
  const timer = setTimeout(() => fail(stall), stallMs);
  const take = (chunk: Buffer): void => {
    size += chunk.length;
    try {
      if (size > options.max) throw new CallboardError('BODY_TOO_LARGE', { max: options.max });
      if (performance.now() > until) throw stall;
      hold(chunk.length);
      parts.push(chunk);
      timer.refresh();
    } catch (error) {
      fail(error as Error);
    }
  };
  const letGo = (): void => {
    clearTimeout(timer);
    raw.off('data', take).off('end', end).off('error', fail).off('close', closed);
  };
  const end = (): void => {
    letGo();
    resolve(parts.length === 1 ? parts[0]! : Buffer.concat(parts, size));
  };
  const fail = (error: Error): void => {
    letGo();
    raw.pause();
    reject(error);
  };
  const closed = (): void => fail(new CallboardError('REQUEST_ABORTED'));
  raw.on('data', take).on('end', end).on('error', fail).on('close', closed);
  if (raw.readableEnded) end();
  else if (raw.destroyed) closed();
  return promise;
}

/** The body's bytes after decompression, in pieces, both sides counted. */
async function* chunks(raw: Readable, zipped: boolean, options: LineOptions): AsyncGenerator<Buffer, void, undefined> {
  const { bodyBytesMax: max, stallMs = BODY_STALL_MAX_MS } = options;
  const tooLarge = (): CallboardError => new CallboardError('BODY_TOO_LARGE', { max });
  let stream = raw;
  let failure: Error | undefined;
  if (zipped) {
    const unzip = createGunzip();
    let sent = 0;
    const count = (chunk: Buffer): void => {
      sent += chunk.length;
      if (sent > max) unzip.destroy(tooLarge());
    };
    raw.on('data', count);
    // Not pipeline(): on a broken body it would destroy the request, and with it the answer.
    raw.on('error', (error) => unzip.destroy(error));
    raw.on('close', () => {
      if (!raw.readableEnded) unzip.destroy(new CallboardError('REQUEST_ABORTED'));
    });
    unzip.on('error', () => raw.unpipe(unzip).off('data', count).pause());
    stream = raw.pipe(unzip);
  }
  const iterator = stream.iterator({ destroyOnReturn: zipped });
  let timer: NodeJS.Timeout | undefined;
  try {
    let total = 0;
    for (;;) {
      const next = iterator.next() as Promise<IteratorResult<Buffer>>;
      next.catch(() => {});
      const stall = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new CallboardError('BODY_STALLED', { ms: stallMs })), stallMs);
      });
      const { value, done } = await Promise.race([next, stall]);
      clearTimeout(timer);
      if (done) return;
      total += value.length;
      if (total > max) throw tooLarge();
      yield value;
    }
  } catch (error) {
    failure = error as Error;
    if (error instanceof CallboardError) throw error;
    if (/^(Z_|ERR_ZLIB)/.test((error as NodeJS.ErrnoException).code ?? '')) {
      throw new CallboardError('ENCODING_BROKEN', { reason: (error as Error).message });
    }
    throw error;
  } finally {
    clearTimeout(timer);
    if (zipped && failure) raw.unpipe().pause();
  }
}
