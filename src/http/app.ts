/**
 * The Fastify app that every room mounts its routes on. Here live what all routes share: identity, access, limits, errors.
 * A route without a declared `access` does not start, so that no route is ever open by forgetting.
 */
import type { ServerOptions as TlsOptions } from 'node:https';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { CallboardError } from '../model/errors.ts';
import { BODY_BYTES_MAX } from '../model/limits.ts';
import { type Access, type Identity, identityName, mayUse } from './identity.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    access?: Access;
  }
  interface FastifyRequest {
    identity: Identity;
  }
}

export type App = FastifyInstance<any, any, any, any, TypeBoxTypeProvider>;
/** Mounts one room's routes. */
export type Routes = (app: App) => Promise<void> | void;
/** Says who sent a request. */
export type Identify = (request: FastifyRequest) => Identity | Promise<Identity>;

export interface AppOptions {
  identify: Identify;
  logger: Logger;
  tls?: TlsOptions;
  rooms: Routes[];
}

export async function buildApp(options: AppOptions): Promise<App> {
  const app = Fastify({
    loggerInstance: options.logger,
    disableRequestLogging: true,
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: 0,
    keepAliveTimeout: 75_000,
    ...(options.tls ? { https: options.tls } : {}),
  } as object).withTypeProvider<TypeBoxTypeProvider>() as unknown as App;

  app.decorateRequest('identity', null as never);
  app.addHook('onRoute', (route) => {
    if (!route.config?.access) throw new Error(`${route.method} ${route.url} declares no access`);
  });
  app.addHook('onRequest', async (request) => {
    const access = request.routeOptions.config.access;
    if (access === 'public') return;
    request.identity = await options.identify(request);
    if (request.identity.kind === 'anonymous') throw new CallboardError('IDENTITY_MISSING');
    if (access === undefined) throw new CallboardError('ROUTE_NOT_FOUND', { path: request.url });
    const { certname } = request.params as { certname?: string };
    if (!mayUse(request.identity, access, certname)) {
      throw new CallboardError('ACCESS_DENIED', {
        identity: identityName(request.identity),
        action: `${request.method} ${request.routeOptions.url}`,
      });
    }
  });
  app.setErrorHandler((error: Error & { statusCode?: number; validation?: unknown }, request, reply) => {
    const known = knownError(error);
    if (known) return reply.status(known.status).send(known.toJSON());
    request.log.error({ err: error, request: request.id }, 'unexpected failure');
    return reply
      .status(500)
      .send({ code: 'UNEXPECTED', message: 'The server failed', hint: `See its log for request ${request.id}.` });
  });
  for (const mount of options.rooms) await app.register(async (scope) => mount(scope as unknown as App));
  return app;
}

function knownError(
  error: Error & { statusCode?: number; validation?: unknown; code?: string },
): CallboardError | undefined {
  if (error instanceof CallboardError) return error;
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') return new CallboardError('BODY_TOO_LARGE', { max: BODY_BYTES_MAX });
  if (error.validation || (error.statusCode && error.statusCode < 500))
    return new CallboardError('REQUEST_INVALID', { reason: error.message });
  return undefined;
}
