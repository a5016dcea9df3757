/** What operators do with pointers: release, roll back, pin, unpin, ask for runs, look back. */
import Type from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { identityName } from '../http/identity.ts';
import { CallboardError } from '../model/errors.ts';
import { parseCertname, parseEnvironmentName } from '../model/ids.ts';
import { NODES_NAMED_MAX, NODES_NOTIFIED_MAX, PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import { notify } from '../postgres/listen.ts';
import { type CompileQueue, pin, release, rollback, unpin } from './pointers.ts';
import { insertRunRequests, nodeEnvironment, pointerHistory } from './store.ts';

const Certname = Type.String({ minLength: 1, maxLength: 253 });
const Environment = Type.String({ minLength: 1, maxLength: 100 });
const HashPrefix = Type.String({ pattern: '^[0-9a-f]{4,64}$' });
const Hash = Type.String();
const Named = Type.Array(Certname, { minItems: 1, maxItems: NODES_NAMED_MAX });
const Nodes = Type.Union([Named, Type.Literal('all')]);
const Skipped = Type.Array(Type.Object({ certname: Certname, reason: Type.String() }));
const Params = Type.Object({ certname: Certname });
const Pinned = Type.Object({
  release: Type.String(),
  certname: Certname,
  catalog: Hash,
  code_version: Hash,
});

export interface ReleaseRoutesDeps {
  db: Database;
  queue: CompileQueue;
}

export function releaseRoutes({ db, queue }: ReleaseRoutesDeps): Routes {
  return (app: App) => {
    app.post(
      '/api/v1/releases',
      {
        config: { access: 'deployer' },
        schema: {
          summary: 'Move nodes to the catalogs of a code version',
          body: Type.Object(
            { environment: Environment, code_version: Type.Optional(HashPrefix), nodes: Nodes },
            { additionalProperties: false },
          ),
          response: {
            200: Type.Object({
              release: Type.String(),
              environment: Environment,
              code_version: Hash,
              moved: Type.Integer(),
              unchanged: Type.Integer(),
              skipped: Skipped,
            }),
          },
        },
      },
      (request) => {
        const { environment, code_version: codeVersion, nodes } = request.body;
        const requestedBy = identityName(request.identity);
        return release(db, queue, { ...wish(environment, nodes), codeVersion, requestedBy });
      },
    );

    app.post(
      '/api/v1/rollbacks',
      {
        config: { access: 'deployer' },
        schema: {
          summary: 'Move nodes back to what they had before their last release',
          body: Type.Object({ environment: Environment, nodes: Nodes }, { additionalProperties: false }),
          response: {
            200: Type.Object({
              release: Type.String(),
              environment: Environment,
              moved: Type.Integer(),
              unchanged: Type.Integer(),
              skipped: Skipped,
              code_now_held: Type.Boolean(),
              code_versions: Type.Record(Type.String(), Type.Integer()),
            }),
          },
        },
      },
      (request) => {
        const { environment, nodes } = request.body;
        return rollback(db, queue, { ...wish(environment, nodes), requestedBy: identityName(request.identity) });
      },
    );

    app.post(
      '/api/v1/pins',
      {
        config: { access: 'deployer' },
        schema: {
          summary: 'Set a node to one of its catalogs and keep it there',
          body: Type.Object({ certname: Certname, catalog: HashPrefix }, { additionalProperties: false }),
          response: { 200: Pinned },
        },
      },
      (request) => {
        const certname = parseCertname(request.body.certname);
        return pin(db, { certname, catalog: request.body.catalog, requestedBy: identityName(request.identity) });
      },
    );

    app.delete(
      '/api/v1/pins/:certname',
      {
        config: { access: 'deployer' },
        schema: { summary: 'Let the policies move a pinned node again', params: Params, response: { 200: Pinned } },
      },
      (request) => {
        const certname = parseCertname(request.params.certname);
        return unpin(db, queue, { certname, requestedBy: identityName(request.identity) });
      },
    );

    app.post(
      '/api/v1/run-requests',
      {
        config: { access: 'deployer' },
        schema: {
          summary: 'Ask nodes to run now',
          body: Type.Object(
            {
              nodes: Named,
              mode: Type.Union([Type.Literal('noop'), Type.Literal('do'), Type.Literal('policy')]),
            },
            { additionalProperties: false },
          ),
          response: {
            200: Type.Object({
              requests: Type.Array(Type.Object({ certname: Certname, id: Type.String(), existed: Type.Boolean() })),
              skipped: Skipped,
            }),
          },
        },
      },
      async (request) => {
        const nodes = request.body.nodes.map(parseCertname);
        const requestedBy = identityName(request.identity);
        const made = await db.transaction().execute(async (tx) => {
          const requests = await insertRunRequests(tx, nodes, request.body.mode, requestedBy);
          const groups = Object.groupBy(requests, (each) => each.environment);
          for (const [environment, members] of Object.entries(groups)) {
            const certnames = members!.map((each) => each.certname as string);
            for (let at = 0; at < certnames.length; ) {
              const some = fitting(certnames.slice(at, at + NODES_NOTIFIED_MAX));
              await notify(tx, 'callboard_node', { environment, certnames: some });
              at += some.length;
            }
          }
          return requests;
        });
        const known = new Set<string>(made.map((each) => each.certname));
        return {
          requests: made.map(({ certname, id, existed }) => ({ certname, id, existed })),
          skipped: nodes
            .filter((certname) => !known.has(certname))
            .map((certname) => ({ certname, reason: 'no node has this name' })),
        };
      },
    );

    app.get(
      '/api/v1/nodes/:certname/history',
      {
        config: { access: 'viewer' },
        schema: {
          summary: "The moves of a node's pointer, newest first",
          params: Params,
          querystring: Type.Object({
            before: Type.Optional(Type.Integer({ minimum: 0 })),
            limit: Type.Integer({ minimum: 1, maximum: PAGE_ROWS_MAX, default: PAGE_ROWS_DEFAULT }),
          }),
        },
      },
      async (request) => {
        const certname = parseCertname(request.params.certname);
        if (!(await nodeEnvironment(db, certname))) throw new CallboardError('NODE_NOT_FOUND', { certname });
        const { before, limit } = request.query;
        const moves = await pointerHistory(db, certname, { before, limit });
        return { moves, next: moves.length === limit ? moves.at(-1)!.id : null };
      },
    );
  };
}

function wish(environment: string, nodes: readonly string[] | 'all') {
  return { environment: parseEnvironmentName(environment), nodes: nodes === 'all' ? nodes : nodes.map(parseCertname) };
}

/** As many of the names as one notification holds; at least one. */
function fitting(certnames: string[]): string[] {
  let some = certnames;
  while (JSON.stringify(some).length > 7000) some = some.slice(0, Math.ceil(some.length / 2));
  return some;
}
