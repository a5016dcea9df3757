/** What people see of catalogs: one, and what is different between two of a node. */
import Type from 'typebox';
import type { App, Routes } from '../http/app.ts';
import type { Catalog } from '../model/catalog.ts';
import { CallboardError } from '../model/errors.ts';
import { type CatalogHash, type Certname, parseCatalogHash, parseCertname } from '../model/ids.ts';
import type { Database } from '../postgres/database.ts';
import { readContents, type StoredContent } from './contents.ts';
import { diffCatalogs, differingContents } from './diff.ts';
import { parseExactly } from './exact.ts';
import { redactedCatalog } from './secrets.ts';
import { type CatalogStore, nodeCatalogs, nodeCatalogsByPrefix } from './store.ts';

export interface CatalogRoutesDeps {
  db: Database;
  readCatalog: CatalogStore['readCatalog'];
  content: StoredContent;
}

/** One side of a comparison: a catalog and the code version it came from. */
interface Side {
  catalog: CatalogHash;
  code_version: string | null;
}

const SIDE = '^(released|candidate|none|[0-9a-f]{4,64})$';

export function catalogRoutes({ db, readCatalog, content }: CatalogRoutesDeps): Routes {
  return (app: App) => {
    app.get(
      '/api/v1/catalogs/:id',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'A catalog; an admin sees its Sensitive values, others do not',
          params: Type.Object({ id: Type.String({ maxLength: 64 }) }),
        },
      },
      async (request, reply) => {
        const { identity } = request;
        const document = await readCatalog(db, parseCatalogHash(request.params.id));
        const isAdmin = identity.kind === 'operator' && identity.role === 'admin';
        reply.header('content-type', 'application/json; charset=utf-8');
        return reply.send(isAdmin ? document : redactedCatalog(document));
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
        const node = await nodeCatalogs(db, certname);
        if (!node) throw new CallboardError('NODE_NOT_FOUND', { certname });
        const from = await side(certname, node, request.query.from);
        const to = await side(certname, node, request.query.to);
        if (!to) throw new CallboardError('CATALOG_NOT_RELEASED', { certname });
        const [older, newer] = [from && (await read(from.catalog)), await read(to.catalog)];
        const diff = diffCatalogs(older, newer, await readContents(content, differingContents(older, newer)));
        // Written here, so that numbers leave digit for digit as they stand in the catalogs.
        reply.header('content-type', 'application/json; charset=utf-8');
        return reply.send(JSON.stringify({ certname, environment: node.environment, from: from ?? null, to, ...diff }));
      },
    );
  };

  async function read(id: CatalogHash): Promise<Catalog> {
    return parseExactly<Catalog>(await readCatalog(db, id));
  }

  /** Undefined where a node has no such catalog, and the comparison is with nothing. */
  async function side(
    certname: Certname,
    node: NonNullable<Awaited<ReturnType<typeof nodeCatalogs>>>,
    name: string,
  ): Promise<Side | undefined> {
    if (name === 'none') return undefined;
    if (name === 'released')
      return node.released_catalog
        ? { catalog: node.released_catalog, code_version: node.released_code_version }
        : undefined;
    if (name === 'candidate') {
      if (!node.compiled) throw new CallboardError('CANDIDATE_MISSING', { certname, environment: node.environment });
      if (!node.candidate) throw new CallboardError('COMPILE_FAILED', { reason: node.error ?? 'The compile failed' });
      return { catalog: node.candidate, code_version: node.newest_code_version };
    }
    const found = await nodeCatalogsByPrefix(db, certname, name);
    if (found.length === 0) throw new CallboardError('CATALOG_NOT_FOUND', { catalog: name });
    if (found.length > 1)
      throw new CallboardError('REQUEST_INVALID', {
        reason: `More than one catalog of ${certname} begins with '${name}'`,
      });
    return { catalog: found[0]!.id, code_version: found[0]!.code_version };
  }
}
