/**
 * Content over HTTP: `/content/v1/sha256/{hash}`. The name says the bytes, so an answer may be kept for ever and its entity
 * tag is the hash. A node reads what its catalogs and plugin trees name (P9); deployers and admins put and read everything.
 */
import type { ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import type {} from '@fastify/swagger'; // its schema fields: summary
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { type Identity, identityName, mayUse } from '../http/identity.ts';
import { CallboardError } from '../model/errors.ts';
import { type Certname, type ContentHash, parseContentHash } from '../model/ids.ts';
import { CONTENT_BYTES_MAX, CONTENT_MEMORY_ITEM_BYTES_MAX } from '../model/limits.ts';
import type { DiskContent } from './disk.ts';
import { type Answer, decideAnswer } from './range.ts';

export interface ContentRoutesOptions {
  store: DiskContent;
  /** Whether a node may read content. Answers at once where it knows. */
  mayRead: (certname: Certname, hash: ContentHash) => boolean | Promise<boolean>;
}

const URL_PATH = '/content/v1/sha256/:hash';
const BYTES = 'application/octet-stream';
const IMMUTABLE = 'private, max-age=31536000, immutable';

const params = Type.Object({ hash: Type.String({ description: 'Lower-case hex SHA-256 of the bytes' }) });
type Params = { Params: { hash: string } };

export function contentRoutes({ store, mayRead }: ContentRoutesOptions): Routes {
  return (app: App) => {
    app.route<Params>({
      method: 'PUT',
      url: URL_PATH,
      config: { access: 'deployer' },
      bodyLimit: CONTENT_BYTES_MAX,
      schema: {
        summary: 'Store content under its hash',
        params,
        response: {
          '2xx': Type.Object({ hash: Type.String(), size: Type.Integer(), existed: Type.Boolean() }),
        },
      },
      async handler(request, reply) {
        const hash = parseContentHash(request.params.hash);
        const encoding = request.headers['content-encoding'];
        if (encoding && encoding !== 'identity') throw new CallboardError('ENCODING_UNSUPPORTED', { value: encoding });
        if (Number(request.headers['content-length'] ?? 0) > CONTENT_BYTES_MAX) {
          throw new CallboardError('BODY_TOO_LARGE', { max: CONTENT_BYTES_MAX });
        }
        const body = (request.body as Readable | undefined) ?? Buffer.alloc(0);
        const { size, existed } = await store.put(hash, body);
        return reply.status(existed ? 200 : 201).send({ hash, size, existed });
      },
    });

    app.route<Params>({
      method: 'GET',
      url: URL_PATH,
      config: { access: 'content' },
      schema: { summary: 'Read content, whole or one range of it', params },
      handler(request, reply) {
        return answer(request, reply);
      },
    });

    app.route<Params>({
      method: 'HEAD',
      url: URL_PATH,
      config: { access: 'content' },
      schema: { summary: 'Whether content is stored, and its size', params },
      handler(request, reply) {
        return answer(request, reply);
      },
    });
  };

  /** Small content in memory is answered at once, without a turn of the event loop. */
  function answer(request: FastifyRequest<Params>, reply: FastifyReply): FastifyReply | Promise<FastifyReply> {
    const hash = parseContentHash(request.params.hash);
    const allowed = isAllowed(request.identity, hash);
    if (allowed !== true) return answerWhenAllowed(allowed, hash, request, reply);
    const bytes = store.readHot(hash);
    if (!bytes || request.method === 'HEAD') return answerAllowed(hash, request, reply);
    const decided = decideAnswer(request.method, request.headers, hash, bytes.length);
    if (decided.status === 416) return answerAllowed(hash, request, reply);
    return send(reply, hash, bytes.length, decided, decided.status === 304 ? undefined : bytes);
  }

  function isAllowed(identity: Identity, hash: ContentHash): boolean | Promise<boolean> {
    if (identity.kind === 'node') return mayRead(identity.certname, hash);
    return mayUse(identity, 'deployer', undefined);
  }

  async function answerWhenAllowed(
    allowed: boolean | Promise<boolean>,
    hash: ContentHash,
    request: FastifyRequest<Params>,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    if (!(await allowed)) {
      throw new CallboardError('ACCESS_DENIED', {
        identity: identityName(request.identity),
        action: `read content ${hash}`,
      });
    }
    return answerAllowed(hash, request, reply);
  }

  async function answerAllowed(
    hash: ContentHash,
    request: FastifyRequest<Params>,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    const size = await store.size(hash);
    if (size === undefined) throw new CallboardError('CONTENT_NOT_FOUND', { hash });
    const answer = decideAnswer(request.method, request.headers, hash, size);
    if (answer.status === 416) {
      reply.header('content-range', `bytes */${size}`);
      throw new CallboardError('RANGE_INVALID', { size });
    }
    if (request.method === 'HEAD') return send(reply, hash, size, answer);
    // Read even where 304 needs no bytes: whoever asks comes again, and is then answered from memory.
    const bytes = size <= CONTENT_MEMORY_ITEM_BYTES_MAX ? await store.read(hash) : undefined;
    if (answer.status === 304) return send(reply, hash, size, answer);
    if (bytes) return send(reply, hash, size, answer, bytes);
    const opened = await store.open(hash);
    try {
      // Put anew between the look and the opening; the asker asks again.
      if (opened.size !== size) throw new CallboardError('BUSY', { reason: `content ${hash} is being put again` });
      return await sendPieces(reply, hash, size, answer, opened.pieces(answer));
    } finally {
      await opened.close();
    }
  }
}

/**
 * Answers past Fastify's reply, with headers in the form that Node takes as they are: an eighth of the CPU time of a small
 * answer. Called when nothing can fail any more, so that no error is kept for a year.
 */
function send(reply: FastifyReply, hash: ContentHash, size: number, answer: Answer, bytes?: Buffer): FastifyReply {
  reply.hijack();
  reply.raw.writeHead(answer.status, headOf(hash, size, answer));
  if (bytes === undefined) reply.raw.end();
  else if (answer.status === 206) reply.raw.end(bytes.subarray(answer.start, answer.start + answer.length));
  else reply.raw.end(bytes);
  return reply;
}

/**
 * One piece is read when the one before has left for the socket, from a buffer that both use. Bytes that turn out to be
 * damaged break the connection off, since the head has left.
 */
async function sendPieces(
  reply: FastifyReply,
  hash: ContentHash,
  size: number,
  answer: Answer,
  pieces: AsyncGenerator<Buffer>,
): Promise<FastifyReply> {
  reply.hijack();
  const { raw } = reply;
  try {
    raw.writeHead(answer.status, headOf(hash, size, answer));
    for await (const piece of pieces) await written(raw, piece);
    raw.end();
  } catch (error) {
    // A receiver that went away is no news.
    if (!raw.destroyed) reply.log.error({ err: error, content: hash }, 'content broke off');
    raw.destroy();
  }
  return reply;
}

/** When the piece has left. The callback of a write is not called in every case of a connection that ends. */
function written(raw: ServerResponse, piece: Buffer): Promise<void> {
  return new Promise((left, failed) => {
    const ended = () => failed(new Error('the receiver went away'));
    raw.once('close', ended);
    raw.write(piece, (error) => {
      raw.off('close', ended);
      if (error) failed(error);
      else left();
    });
    if (raw.closed) ended();
  });
}

function headOf(hash: ContentHash, size: number, { status, start, length }: Answer): string[] {
  const head = ['etag', `"${hash}"`, 'cache-control', IMMUTABLE, 'accept-ranges', 'bytes', 'content-type', BYTES];
  if (status !== 304) head.push('content-length', String(length));
  if (status === 206) head.push('content-range', `bytes ${start}-${start + length - 1}/${size}`);
  return head;
}
