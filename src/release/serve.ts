/**
 * The node's side: the one catalog that is released to it (P5), in one round trip, and nothing but what is stored already
 * (P1). The common question "is there anything new?" is answered from memory; see `pointer-cache.ts` for why that is never
 * out of date. What cannot be answered from memory costs a share of one indexed statement.
 */
import { createGunzip } from 'node:zlib';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { CallboardError } from '../model/errors.ts';
import type { CatalogHash, Certname } from '../model/ids.ts';
import { RUN_REQUEST_TIME_MAX_MS } from '../model/limits.ts';
import type { Database, Queries } from '../postgres/database.ts';
import type { Listener } from '../postgres/listen.ts';
import { catalogCache } from './catalog-cache.ts';
import { pointerCache, type ReleasedPointer } from './pointer-cache.ts';
import { pluginsOf, type ServedPointer, servedPointers } from './store.ts';
import { type WakeUps, wakeUps } from './wake-ups.ts';

export interface ServeDeps {
  db: Database;
  listener: Pick<Listener, 'on' | 'onGap'>;
  /** Whether notifications are arriving now; while they are not, every question goes to the database. */
  isListening: () => boolean;
  /** The catalog's gzip as it can be served. */
  readCatalogGzip(db: Queries, id: CatalogHash): Promise<Buffer>;
}

const Params = Type.Object({ certname: Type.String({ maxLength: 253 }) });

// The access check has compared the name with the certificate's, so it is one.
type NodeRequest = FastifyRequest<{ Params: { certname: Certname } }>;

export function serveRoutes(deps: ServeDeps): Routes {
  const { db, listener } = deps;
  const pointers = pointerCache({ read: (certnames) => readPointers(db, certnames), isListening: deps.isListening });
  const catalogs = catalogCache((id) => deps.readCatalogGzip(db, id));
  const wakes = wakeUps(pointers.get);
  listen(listener, pointers.forget, wakes);

  return (app: App) => {
    app.get(
      '/node/v1/nodes/:certname/catalog',
      {
        config: { access: 'node' },
        schema: { summary: 'The catalog released to the node, or 304 when it has it', params: Params },
      },
      (request: NodeRequest, reply) => {
        const pointer = pointers.remembered(request.params.certname);
        if (pointer === undefined) return readAndAnswer(request, reply);
        if (isUnchanged(request, pointer)) return notModified(reply, pointer);
        return answerCatalog(request, reply, pointer);
      },
    );

    app.get(
      '/node/v1/nodes/:certname/plugins',
      {
        config: { access: 'node' },
        schema: {
          summary: "The plugin tree that the node's facts and runs need",
          params: Params,
          querystring: Type.Object({
            // Of a node that has sent no facts yet, and so has no environment yet.
            environment: Type.String({ pattern: '^[a-z0-9_]{1,100}$', default: 'production' }),
          }),
        },
      },
      async (request) => {
        const { certname } = request.params as { certname: Certname };
        return { plugins: (await pluginsOf(db, certname, request.query.environment)) ?? null };
      },
    );

    app.get(
      '/node/v1/nodes/:certname/wakeups',
      {
        config: { access: 'node' },
        schema: { summary: 'Events: there is a new catalog, or a wish to run', params: Params },
      },
      (request: NodeRequest, reply) => {
        wakes.open(request.params.certname, reply);
      },
    );
  };

  async function readAndAnswer(request: NodeRequest, reply: FastifyReply): Promise<FastifyReply> {
    const { certname } = request.params;
    const pointer = await pointers.get(certname);
    if (!pointer) {
      const plugins = await pluginsOf(db, certname, 'production');
      if (plugins) reply.header('callboard-plugins', plugins);
      throw new CallboardError('CATALOG_NOT_RELEASED', { certname });
    }
    if (isUnchanged(request, pointer)) return notModified(reply, pointer);
    return answerCatalog(request, reply, pointer);
  }

  async function answerCatalog(
    request: NodeRequest,
    reply: FastifyReply,
    pointer: ReleasedPointer,
  ): Promise<FastifyReply> {
    const gzip = await catalogs.get(pointer.catalog);
    reply.headers(pointer.headers);
    reply.header('content-type', 'application/json; charset=utf-8').header('vary', 'accept-encoding');
    if (takesGzip(request.headers['accept-encoding'])) return reply.header('content-encoding', 'gzip').send(gzip);
    const document = createGunzip();
    document.end(gzip);
    return reply.send(document);
  }
}

/** Notifications: what moved is forgotten, and then its nodes are woken, in this order. */
function listen(listener: ServeDeps['listener'], forget: (certname?: string) => void, wakes: WakeUps): void {
  listener.on('callboard_node', ({ certnames }) => {
    if (!certnames) {
      // A node may have gone over to another environment since its pointer was read, so all are forgotten.
      forget();
      wakes.wakeAll();
      return;
    }
    for (const certname of certnames) {
      forget(certname);
      wakes.wake(certname);
    }
  });
  // A run's first event takes up a run request, which is then no longer told.
  listener.on('callboard_run_event', ({ certname, from }) => {
    if (from <= 1) forget(certname);
  });
  listener.onGap(() => {
    forget();
    wakes.wakeAll();
  });
}

async function readPointers(db: Database, certnames: string[]): Promise<Map<string, ReleasedPointer>> {
  const found = await servedPointers(db, certnames);
  return new Map(
    found.flatMap((row) => {
      const pointer = releasedPointer(row);
      return pointer ? [[row.certname, pointer] as const] : [];
    }),
  );
}

function releasedPointer(row: ServedPointer): ReleasedPointer | undefined {
  const { catalog, code_version: codeVersion, plugins } = row;
  if (!catalog || !codeVersion || !plugins) return undefined;
  // A catalog of an environment that is gone is only rehearsed.
  const runMode = row.run_policy ?? 'noop';
  const etag = `"${catalog}.${plugins}.${runMode}"`;
  const request =
    row.request && row.request_mode && row.requested_at
      ? { id: row.request, mode: row.request_mode, expiresAtMs: row.requested_at.getTime() + RUN_REQUEST_TIME_MAX_MS }
      : undefined;
  const headers = {
    etag,
    'callboard-catalog': catalog,
    'callboard-code-version': codeVersion,
    'callboard-plugins': plugins,
    'callboard-run-mode': runMode,
    ...(request && { 'callboard-run-request': `${request.id};mode=${request.mode}` }),
  };
  return { catalog, codeVersion, plugins, runMode, etag, headers, request };
}

function notModified(reply: FastifyReply, pointer: ReleasedPointer): FastifyReply {
  return reply.code(304).headers(pointer.headers).send();
}

function isUnchanged(request: NodeRequest, pointer: ReleasedPointer): boolean {
  const asked = request.headers['if-none-match'];
  if (asked === undefined) return false;
  return asked === pointer.etag || listsTag(asked, pointer.etag);
}

/** The general form of If-None-Match: a list, weak tags, or anything at all. */
export function listsTag(header: string, etag: string): boolean {
  if (header.trim() === '*') return true;
  return header.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag);
}

/** Whether Accept-Encoding takes gzip: named, or by `*`, with a weight that is not zero. */
export function takesGzip(header: string | string[] | undefined): boolean {
  if (header === undefined) return false;
  let byStar = false;
  for (const part of String(header).toLowerCase().split(',')) {
    const [coding, ...parameters] = part.split(';').map((each) => each.trim());
    const isRefused = parameters.some((each) => /^q=0(\.0{0,3})?$/.test(each));
    if (coding === 'gzip' || coding === 'x-gzip') return !isRefused;
    if (coding === '*') byStar = !isRefused;
  }
  return byStar;
}
