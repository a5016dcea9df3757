/**
 * Why: what a node's catalog was made from, and where in it a resource comes from; what catalogs it had; which code first
 * had a resource as it is. Nothing is compiled here.
 */
import Type from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { CallboardError } from '../model/errors.ts';
import { parseCertname } from '../model/ids.ts';
import { PAST_ROWS_DEFAULT, PAST_ROWS_MAX } from '../model/limits.ts';
import { bisect } from './bisection.ts';
import { diffCatalogs } from './diff.ts';
import { explainCatalog, explainResource } from './explanation.ts';
import { type CatalogReading, readParsed } from './reading.ts';
import { knownNode, SIDE, type Side, sideOf } from './sides.ts';
import { pastCatalogs } from './store.ts';

const Params = Type.Object({ certname: Type.String({ maxLength: 253 }) });
const Resource = Type.String({ maxLength: 4096, pattern: '^[A-Z][^\\[]*\\[[\\s\\S]*\\]$', description: 'Type[title]' });

export function explainRoutes(deps: CatalogReading): Routes {
  const { db } = deps;
  return (app: App) => {
    app.get(
      '/api/v1/nodes/:certname/explanation',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'What a catalog of a node was made from, and where in it a resource comes from',
          params: Params,
          querystring: Type.Object({
            catalog: Type.String({ pattern: SIDE, default: 'released' }),
            resource: Type.Optional(Resource),
          }),
        },
      },
      async (request, reply) => {
        const certname = parseCertname(request.params.certname);
        const node = await knownNode(db, certname);
        const side = await sideOf(db, certname, node, request.query.catalog);
        if (!side) throw new CallboardError('CATALOG_NOT_RELEASED', { certname });
        const { resource } = request.query;
        const catalog = await explainCatalog(deps, certname, node, side);
        const about = resource && (await explainResource(deps, certname, node, side, resource));
        reply.header('content-type', 'application/json; charset=utf-8');
        return reply.send(
          JSON.stringify({ certname, environment: node.environment, ...catalog, ...(about && { resource: about }) }),
        );
      },
    );

    app.get(
      '/api/v1/nodes/:certname/catalogs',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'The catalogs a node was given, the last first, each with what it changed',
          params: Params,
          querystring: Type.Object({
            before: Type.Optional(Type.Integer({ minimum: 0 })),
            limit: Type.Integer({ minimum: 1, maximum: PAST_ROWS_MAX, default: PAST_ROWS_DEFAULT }),
          }),
        },
      },
      async (request) => {
        const certname = parseCertname(request.params.certname);
        await knownNode(db, certname);
        const { before, limit } = request.query;
        const past = await pastCatalogs(db, certname, { before, limit });
        const catalogs = [];
        for (const each of past)
          catalogs.push({ ...each, difference: await countsBetween(deps, each.previous_catalog, each.catalog) });
        return { catalogs, next: past.length === limit ? past.at(-1)!.id : null };
      },
    );

    app.get(
      '/api/v1/nodes/:certname/bisection',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'Which deploy first had a resource of a node as it is now',
          params: Params,
          querystring: Type.Object({ resource: Resource }),
        },
      },
      async (request, reply) => {
        const certname = parseCertname(request.params.certname);
        const node = await knownNode(db, certname);
        const found = await bisect(deps, certname, node, request.query.resource);
        reply.header('content-type', 'application/json; charset=utf-8');
        return reply.send(JSON.stringify({ certname, environment: node.environment, ...found }));
      },
    );
  };
}

/** How many resources a catalog added, removed and changed; null where the earlier one is not kept. */
async function countsBetween(deps: CatalogReading, from: Side['catalog'] | null, to: Side['catalog']) {
  if (from === to) return { added: 0, removed: 0, changed: 0 };
  try {
    const [older, newer] = [from ? await readParsed(deps, from) : undefined, await readParsed(deps, to)];
    const { added, removed, changed } = diffCatalogs(older, newer).counts;
    return { added, removed, changed };
  } catch (error) {
    if (error instanceof CallboardError) return null;
    throw error;
  }
}
