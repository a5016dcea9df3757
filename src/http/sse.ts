/**
 * Server-sent events. A stream says a comment every 15 s, ends when the app closes, and is cut off when its reader is so slow
 * that its buffer fills: the reader comes back and looks anew, since what is sent here are hints (P7) or things that can
 * be read again.
 */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { CallboardError } from '../model/errors.ts';
import { STREAM_BUFFER_BYTES_MAX, STREAM_HEARTBEAT_MS, STREAMS_MAX } from '../model/limits.ts';

declare module 'fastify' {
  interface FastifyInstance {
    streams: Streams;
  }
}

export interface EventStream {
  /** Sends one event; `data` that is no string is sent as JSON. False: the stream is closed, or was cut off by this. */
  send(event: string, data: unknown, id?: string): boolean;
  /** Called once, whoever ended the stream. */
  onClose(closed: () => void): void;
  readonly closed: boolean;
  close(): void;
}

export interface StreamOptions {
  headers?: Record<string, string>;
  bufferBytesMax?: number;
}

/** Turns a reply into a stream of events. Throws BUSY when STREAMS_MAX are open. */
export function openStream(reply: FastifyReply, options: StreamOptions = {}): EventStream {
  return reply.server.streams.open(reply, options);
}

const BEATS = STREAM_HEARTBEAT_MS / 1000;

/** The open streams of one app. One timer serves them all: each second a fifteenth of them hear the heartbeat. */
export class Streams {
  readonly #beats: Set<Stream>[] = Array.from({ length: BEATS }, () => new Set());
  readonly #max: number;
  #count = 0;
  #next = 0;
  #beat = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(max = STREAMS_MAX) {
    this.#max = max;
  }

  get count(): number {
    return this.#count;
  }

  open(reply: FastifyReply, options: StreamOptions): EventStream {
    if (this.#count >= this.#max) throw new CallboardError('BUSY', { reason: `${this.#max} streams are open` });
    const group = this.#beats[this.#next++ % BEATS]!;
    const stream = new Stream(reply, options);
    group.add(stream);
    this.#count++;
    this.#timer ??= setInterval(() => this.#tick(), 1000).unref();
    stream.onClose(() => {
      group.delete(stream);
      if (--this.#count === 0) {
        clearInterval(this.#timer);
        this.#timer = undefined;
      }
    });
    return stream;
  }

  closeAll(): void {
    for (const group of this.#beats) for (const stream of [...group]) stream.close();
  }

  #tick(): void {
    this.#beat = (this.#beat + 1) % BEATS;
    for (const stream of this.#beats[this.#beat]!) stream.comment();
  }
}

/** Makes `openStream` work on an app, and ends its streams when it closes. */
export function addStreams(app: FastifyInstance, max?: number): Streams {
  const streams = new Streams(max);
  app.decorate('streams', streams);
  app.addHook('preClose', async () => streams.closeAll());
  return streams;
}

class Stream implements EventStream {
  readonly #raw: FastifyReply['raw'];
  readonly #bufferBytesMax: number;
  #listeners: (() => void)[] = [];
  closed = false;

  constructor(reply: FastifyReply, options: StreamOptions) {
    this.#bufferBytesMax = options.bufferBytesMax ?? STREAM_BUFFER_BYTES_MAX;
    reply.request.streamed = true;
    reply.hijack();
    this.#raw = reply.raw;
    this.#raw.on('close', () => this.#ended());
    this.#raw.on('error', () => this.#ended());
    this.#raw.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
      ...(reply.getHeaders() as Record<string, string>),
      ...options.headers,
    });
    // The first bytes go out at once, so that the reader knows that it listens.
    this.comment();
  }

  send(event: string, data: unknown, id?: string): boolean {
    const text = typeof data === 'string' ? data : JSON.stringify(data);
    const lines = text.includes('\n') ? text.replaceAll(/\r?\n/g, '\ndata: ') : text;
    return this.#write(`${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${lines}\n\n`);
  }

  comment(): void {
    this.#write(':\n\n');
  }

  onClose(closed: () => void): void {
    if (this.closed) closed();
    else this.#listeners.push(closed);
  }

  close(): void {
    if (!this.closed) this.#raw.end();
    this.#ended();
  }

  #write(text: string): boolean {
    if (this.closed) return false;
    this.#raw.write(text);
    if (this.#raw.writableLength <= this.#bufferBytesMax) return true;
    this.#raw.destroy();
    this.#ended();
    return false;
  }

  #ended(): void {
    if (this.closed) return;
    this.closed = true;
    const listeners = this.#listeners;
    this.#listeners = [];
    for (const listener of listeners) listener();
  }
}
