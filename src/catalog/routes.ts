/** What people see of catalogs: one, and what is different between two of a node. */
import Type from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { CallboardError } from '../model/errors.ts';
import { type CatalogHash, parseCatalogHash, parseCertname } from '../model/ids.ts';
import { diffCatalogs } from './diff.ts';
import { type CatalogReading, readPair } from './reading.ts';
import { redactedCatalog } from './secrets.ts';
import { knownNode, SIDE, sideOf } from './sides.ts';
import { catalogsByPrefix } from './store.ts';

export function catalogRoutes(deps: CatalogReading): Routes {
  const { db, readCatalog } = deps;
  return (app: App) => {
    app.get(
      '/api/v1/catalogs/:id',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'A catalog by its id or the first digits of it; an admin sees its Sensitive values, others do not',
          params: Type.Object({ id: Type.String({ maxLength: 64 }) }),
          querystring: Type.Object({
            redacted: Type.Boolean({ default: false, description: 'Without its Sensitive values, for an admin too' }),
          }),
        },
      },
      async (request, reply) => {
        const { identity } = request;
        const document = await readCatalog(db, await idOf(request.params.id));
        const isAdmin = identity.kind === 'operator' && identity.role === 'admin';
        reply.header('content-type', 'application/json; charset=utf-8');
        return reply.send(isAdmin && !request.query.redacted ? document : redactedCatalog(document));
      },
    );

    app.get(
      '/api/v1/nodes/:certname/diff',
      {
        config: { access: 'viewer' },
        schema: {
          summary: "What differs between two of a node's catalogs, by default released and candidate",
          params: Type.Object({ certname: Type.String({ maxLength: 253 }) }),
          querystring: Type.Object({
            from: Type.String({ pattern: SIDE, default: 'released' }),
            to: Type.String({ pattern: SIDE, default: 'candidate' }),
          }),
        },
      },
      async (request, reply) => {
        const certname = parseCertname(request.params.certname);
        const node = await knownNode(db, certname);
        const from = await sideOf(db, certname, node, request.query.from);
        const to = await sideOf(db, certname, node, request.query.to);
        if (!to) throw new CallboardError('CATALOG_NOT_RELEASED', { certname });
        const { older, newer, contents } = await readPair(deps, from?.catalog, to.catalog);
        const diff = diffCatalogs(older, newer, contents);
        // Written here, so that numbers leave digit for digit as they stand in the catalogs.
        reply.header('content-type', 'application/json; charset=utf-8');
        return reply.send(JSON.stringify({ certname, environment: node.environment, from: from ?? null, to, ...diff }));
      },
    );
  };

  async function idOf(text: string): Promise<CatalogHash> {
    if (!/^[0-9a-f]{4,63}$/.test(text)) return parseCatalogHash(text);
    const found = await catalogsByPrefix(db, text);
    if (found.length === 0) throw new CallboardError('CATALOG_NOT_FOUND', { catalog: text });
    if (found.length > 1)
      throw new CallboardError('REQUEST_INVALID', { reason: `More than one catalog begins with '${text}'` });
    return found[0]!;
  }
}
