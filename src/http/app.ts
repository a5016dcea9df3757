/**
 * The Fastify app that every room mounts its routes on. Here live what all routes share: identity, access, limits, errors,
 * metrics, the access log and the audit.
 *
 * - A route without a declared `access` does not start, so that no route is ever open by forgetting.
 * - Without a valid identity nothing answers but public routes, and hooks that are signed; not even that a route does not exist.
 * - A route whose schema has a `body` gets JSON, checked; any other gets its body as a stream, unread (`readBody` and
 *   `readLines` read it within limits). What a handler leaves unread is read off within limits, or the connection ends.
 *
 * What happens to a request is put together per route when it is mounted, so that nothing is looked up or decided while
 * one is served: a fleet's polling passes through here.
 */
import type { IncomingMessage } from 'node:http';
import type { Server, ServerOptions as TlsOptions } from 'node:https';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type RouteOptions } from 'fastify';
import type { Logger } from 'pino';
import { CallboardError } from '../model/errors.ts';
import {
  BODY_BYTES_MAX,
  CONNECTION_STALL_MAX_MS,
  HEADER_BYTES_MAX,
  HEADER_TIME_MAX_MS,
  KEEP_ALIVE_MS,
  PATH_PARAMETER_MAX,
  STOP_TIME_MAX_MS,
  STREAMS_MAX,
} from '../model/limits.ts';
import { isDatabaseAway } from '../postgres/database.ts';
import type { Audit } from './audit.ts';
import { drainBody, readBody } from './body.ts';
import { addDescription, descriptionRoutes } from './describe.ts';
import type { Identify } from './identify.ts';
import { type Access, ANONYMOUS, type Identity, identityName, mayUse } from './identity.ts';
import { parseJsonBody } from './json-body.ts';
import { lazyLogger } from './lazy-logger.ts';
import type { Metrics } from './metrics.ts';
import { addStreams } from './sse.ts';
import { compileValidator } from './validator.ts';

export type { Identify } from './identify.ts';

/** One route, as it was mounted. */
export interface MountedRoute {
  method: string;
  url: string;
  access: Access;
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Every route of every room. */
    routeTable: MountedRoute[];
  }
  interface FastifyContextConfig {
    access?: Access;
  }
  interface FastifyRequest {
    identity: Identity;
    /** The reply became a stream of events: how long it lasted says nothing about how long it took. */
    streamed: boolean;
  }
}

// biome-ignore lint/suspicious/noExplicitAny: the same app over TLS and without it; rooms do not see the difference
export type App = FastifyInstance<any, any, any, any, TypeBoxTypeProvider>;
/** Mounts one room's routes. */
export type Routes = (app: App) => Promise<void> | void;

export interface AppOptions {
  identify: Identify;
  logger: Logger;
  tls?: TlsOptions;
  rooms: Routes[];
  audit?: Audit;
  metrics?: Metrics;
  streamsMax?: number;
  /** How long `close()` lets requests go on. */
  stopTimeMs?: number;
}

export async function buildApp(options: AppOptions): Promise<App> {
  const app = Fastify({
    loggerInstance: options.logger,
    childLoggerFactory: lazyLogger,
    logController: new Fastify.LogController({ disableRequestLogging: true }),
    genReqId: requestIds(),
    bodyLimit: BODY_BYTES_MAX,
    connectionTimeout: CONNECTION_STALL_MAX_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    // Bodies have limits of their own: an event stream or a large file may take as long as it moves.
    requestTimeout: 0,
    return503OnClosing: false,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: PATH_PARAMETER_MAX },
    frameworkErrors: refuseBadUrl,
    clientErrorHandler: refuseBadRequest,
    [options.tls ? 'https' : 'http']: {
      ...options.tls,
      maxHeaderSize: HEADER_BYTES_MAX,
      headersTimeout: HEADER_TIME_MAX_MS,
      connectionsCheckingInterval: 5_000,
    },
  } as object).withTypeProvider<TypeBoxTypeProvider>() as unknown as App;

  app.decorateRequest('identity', null as never);
  app.decorateRequest('streamed', false);
  const routeTable: MountedRoute[] = [];
  app.decorate('routeTable', routeTable);
  const streams = addStreams(app, options.streamsMax ?? STREAMS_MAX);
  closeGracefully(app, options.stopTimeMs ?? STOP_TIME_MAX_MS);
  options.metrics?.watchStreams(streams);
  app.setValidatorCompiler(compileValidator);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(/^.*/, parseBody);
  app.addHook('onRoute', (route) => {
    prepareRoute(route, options);
    for (const method of asList(route.method))
      routeTable.push({ method, url: route.url, access: route.config!.access! });
  });
  const observeStray = observe({ url: '(none)' }, 'public', { logger: options.logger });
  app.addHook('onResponse', (request, reply, done) => {
    drainBody(request.raw);
    if (request.is404) observeStray(request, reply, done);
    else done();
  });
  app.setErrorHandler(answerError);
  app.setNotFoundHandler(async (request) => {
    request.identity = await options.identify(request);
    if (request.identity.kind === 'anonymous') throw new CallboardError('IDENTITY_MISSING');
    throw new CallboardError('ROUTE_NOT_FOUND', { path: pathOf(request) });
  });
  await addDescription(app);
  for (const mount of [...options.rooms, descriptionRoutes])
    await app.register(async (scope) => mount(scope as unknown as App));
  return app;

  /** A URL that cannot be decoded reaches no route; strangers are told no more about it than about any other. */
  function refuseBadUrl(error: Error, request: FastifyRequest, reply: FastifyReply): void {
    void (async () => {
      const identity = await options.identify(request);
      const refusal =
        identity.kind === 'anonymous'
          ? new CallboardError('IDENTITY_MISSING')
          : new CallboardError('REQUEST_INVALID', { reason: error.message });
      reply.status(refusal.status).send(refusal.toJSON());
    })().catch(() => reply.raw.destroy());
  }
}

/**
 * `app.close()` stops accepting, ends streams and lets requests finish. What is left after `timeMs` is ended. A connection
 * whose last request ended after the close began would otherwise idle on, and hold the close up, until its keep-alive ends.
 */
function closeGracefully(app: App, timeMs: number): void {
  const timers: NodeJS.Timeout[] = [];
  app.addHook('preClose', async () => {
    const server = app.server as Server;
    timers.push(setInterval(() => server.closeIdleConnections(), 20));
    timers.push(setTimeout(() => server.closeAllConnections(), timeMs));
  });
  app.addHook('onClose', async () => {
    for (const timer of timers) clearTimeout(timer);
  });
}

/** Gives a route what all routes have: the guard at its door, the log, the measure, and the audit where it changes something. */
function prepareRoute(route: RouteOptions, options: AppOptions): void {
  const access = route.config?.access;
  const name = `${route.method} ${route.url}`;
  if (!access) throw new Error(`${name} declares no access`);
  if (access === 'node' && !/\/:certname(\/|$)/.test(route.url)) throw new Error(`${name} names no node`);

  const measure = options.metrics?.observer(String(route.method), route.url);
  route.onRequest = [guard(access, name, options.identify), ...asList(route.onRequest)];
  route.onResponse = [...asList(route.onResponse), observe(route, access, { logger: options.logger, measure })];
  const changes = asList(route.method).some((method) => !['GET', 'HEAD', 'OPTIONS'].includes(method));
  if (changes && access !== 'public' && options.audit) {
    route.onSend = [...asList(route.onSend), writeAudit(name, options.audit)];
  }
  if (!route.url.startsWith('/node/') && !route.url.startsWith('/content/')) {
    route.onRequest = [harden, ...asList(route.onRequest)];
  }
}

type Done = (error?: Error) => void;

function guard(access: Access, action: string, identify: Identify) {
  if (access === 'public' || access === 'hook') {
    return (request: FastifyRequest, _reply: FastifyReply, done: Done): void => {
      request.identity = ANONYMOUS;
      done();
    };
  }
  const admit = (request: FastifyRequest, identity: Identity, done: Done): void => {
    request.identity = identity;
    const { certname } = request.params as { certname?: string };
    if (mayUse(identity, access, certname)) done();
    else if (identity.kind === 'anonymous') done(new CallboardError('IDENTITY_MISSING'));
    else done(new CallboardError('ACCESS_DENIED', { identity: identityName(identity), action }));
  };
  return (request: FastifyRequest, _reply: FastifyReply, done: Done): void => {
    const found = identify(request);
    if (found instanceof Promise) found.then((identity) => admit(request, identity, done), done);
    else admit(request, found, done);
  };
}

/** Answers to people's clients are never kept, framed, sniffed or run. Nodes' clients have no use for such headers. */
function harden(_request: FastifyRequest, reply: FastifyReply, done: Done): void {
  reply.headers({
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'referrer-policy': 'no-referrer',
    'strict-transport-security': 'max-age=31536000',
    'x-content-type-options': 'nosniff',
  });
  done();
}

function writeAudit(action: string, audit: Audit) {
  return async (request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> => {
    const { identity } = request;
    if (identity?.kind !== 'operator') return payload;
    const entry = {
      operator: identity.name,
      action,
      target: pathOf(request),
      address: request.ip,
      status: reply.statusCode,
    };
    try {
      await audit(entry);
    } catch (error) {
      // The change is done: its answer must not say that it failed. The log keeps what the table could not.
      request.log.error({ err: error, audit: entry }, 'the audit log cannot be written');
    }
    return payload;
  };
}

/** Nodes' polling that went well is counted and not told, unless the log's level asks for it: a fleet does it all day. */
function observe(
  route: Pick<RouteOptions, 'url'>,
  access: Access,
  { logger, measure }: { logger: Logger; measure?: ReturnType<Metrics['observer']> | undefined },
) {
  const polling = access === 'node' || access === 'content';
  return (request: FastifyRequest, reply: FastifyReply, done: Done): void => {
    if (!request.streamed) measure?.(reply);
    const level = polling && reply.statusCode < 400 ? 'debug' : 'info';
    if (logger.isLevelEnabled(level)) {
      const params = request.params as Record<string, string | undefined>;
      logger[level](
        {
          request: request.id,
          method: request.method,
          route: route.url,
          status: reply.statusCode,
          ms: Math.round(reply.elapsedTime * 10) / 10,
          identity: identityName(request.identity ?? ANONYMOUS),
          address: request.ip,
          node: params.certname,
          run: params.run,
        },
        'request',
      );
    }
    done();
  };
}

function parseBody(
  request: FastifyRequest,
  payload: IncomingMessage,
  done: (error: Error | null, body?: unknown) => void,
) {
  const { schema, bodyLimit } = request.routeOptions;
  if (!(schema as { body?: unknown } | undefined)?.body) return done(null, payload);
  const type = request.headers['content-type'];
  if (type !== undefined && !/^application\/(?:[\w.-]+\+)?json *(?:;|$)/i.test(type)) {
    return done(new CallboardError('BODY_TYPE_UNSUPPORTED', { value: type }));
  }
  readBody(request, { max: bodyLimit, gzip: true }).then((bytes) => {
    try {
      done(null, parseJsonBody(bytes));
    } catch (error) {
      done(error as Error);
    }
  }, done);
}

function answerError(
  error: Error & { statusCode?: number },
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  const known = expected(error, request);
  if (known) {
    if (known.code === 'IDENTITY_MISSING') reply.header('www-authenticate', 'Bearer realm="callboard"');
    if (known.cause) request.log.warn({ err: known.cause }, known.message);
    return reply.status(known.status).send(known.toJSON());
  }
  request.log.error({ err: error }, 'unexpected failure');
  return reply
    .status(500)
    .send({ code: 'UNEXPECTED', message: 'The server failed', hint: `See its log for request ${request.id}.` });
}

function expected(
  error: Error & { statusCode?: number; code?: string },
  request: FastifyRequest,
): CallboardError | undefined {
  if (error instanceof CallboardError) return error;
  // Only the request's own connection. One to the database that is lost is our failure: a 400 would tell nodes to drop their events.
  if (error.code === 'ECONNRESET' && request.raw.errored === error) return new CallboardError('REQUEST_ABORTED');
  if (isDatabaseAway(error))
    return new CallboardError('DATABASE_UNREACHABLE', { reason: error.message }, { cause: error });
  if (error.statusCode && error.statusCode < 500)
    return new CallboardError('REQUEST_INVALID', { reason: error.message });
  return undefined;
}

/** What is no HTTP, or has too large headers, is answered where the connection still takes an answer, and ended. */
function refuseBadRequest(error: NodeJS.ErrnoException, socket: import('node:net').Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy(error);
    return;
  }
  const status =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? '431 Request Header Fields Too Large'
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? '408 Request Timeout'
        : '400 Bad Request';
  const body = JSON.stringify(
    new CallboardError('REQUEST_INVALID', { reason: `The request is not valid HTTP: ${error.code ?? 'unknown'}` }),
  );
  socket.end(
    `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

/** Ids of requests that differ between processes and restarts, and cost nothing. */
function requestIds(): () => string {
  const start = `${process.pid.toString(36)}${Date.now().toString(36)}`;
  let count = 0;
  return () => `${start}-${(count++).toString(36)}`;
}

/** The path without its query, which may hold what no log should. */
function pathOf(request: FastifyRequest): string {
  const end = request.url.indexOf('?');
  return end < 0 ? request.url : request.url.slice(0, end);
}

function asList<Item>(value: Item | Item[] | undefined): Item[] {
  return value === undefined ? [] : Array.isArray(value) ? value : [value];
}
