/**
 * Content over HTTP: `/content/v1/sha256/{hash}`. The name says the bytes, so an answer may be kept for ever and its entity
 * tag is the hash. A node reads what its catalogs and plugin trees name (P9); deployers and admins put and read everything.
 */
import type { OutgoingHttpHeaders } from 'node:http';
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
    return bytes ? answerBytes(bytes, hash, request, reply) : answerAllowed(hash, request, reply);
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
    if (answer.status === 304 || answer.status === 416 || request.method === 'HEAD') {
      return describe(reply, hash, size, answer).send();
    }
    if (size <= CONTENT_MEMORY_ITEM_BYTES_MAX) return answerBytes(await store.read(hash), hash, request, reply);
    const opened = await store.open(hash);
    if (opened.size !== size) {
      // Put anew between the look and the opening; the asker asks again.
      await opened.close();
      throw new CallboardError('BUSY', { reason: `content ${hash} is being put again` });
    }
    return sendPieces(describe(reply, hash, size, answer), opened.pieces(answer));
  }
}

function answerBytes(
  bytes: Buffer,
  hash: ContentHash,
  request: FastifyRequest<Params>,
  reply: FastifyReply,
): FastifyReply {
  const answer = decideAnswer(request.method, request.headers, hash, bytes.length);
  describe(reply, hash, bytes.length, answer);
  if (answer.status === 304 || request.method === 'HEAD') return reply.send();
  return reply.send(answer.status === 200 ? bytes : bytes.subarray(answer.start, answer.start + answer.length));
}

/** Status and headers. Called when nothing can fail any more: an error must not be kept for a year. */
function describe(reply: FastifyReply, hash: ContentHash, size: number, answer: Answer): FastifyReply {
  if (answer.status === 416) {
    reply.header('content-range', `bytes */${size}`);
    throw new CallboardError('RANGE_INVALID', { size });
  }
  reply
    .header('etag', `"${hash}"`)
    .header('cache-control', IMMUTABLE)
    .header('accept-ranges', 'bytes')
    .header('content-type', 'application/octet-stream');
  if (answer.status === 304) return reply.status(304);
  reply.header('content-length', answer.length);
  if (answer.status === 200) return reply;
  const last = answer.start + answer.length - 1;
  return reply.status(206).header('content-range', `bytes ${answer.start}-${last}/${size}`);
}

/**
 * Past Fastify's streams: one piece is read when the one before has left for the socket, from a buffer that both use. Bytes
 * that turn out to be damaged break the connection off, since the head has left.
 */
async function sendPieces(reply: FastifyReply, pieces: AsyncGenerator<Buffer>): Promise<FastifyReply> {
  reply.hijack();
  const { raw } = reply;
  try {
    raw.writeHead(reply.statusCode, reply.getHeaders() as OutgoingHttpHeaders);
    for await (const piece of pieces) {
      await new Promise<void>((left, failed) => {
        raw.write(piece, (error) => (error ? failed(error) : left()));
      });
    }
    raw.end();
  } catch (error) {
    if (!raw.destroyed) reply.log.error({ err: error }, 'content broke off');
    raw.destroy();
    await pieces.return(undefined);
  }
  return reply;
}
