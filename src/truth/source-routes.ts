/** `/api/v1/code-sources…`: control repos whose branches are environments. */
import { randomBytes } from 'node:crypto';
import { Type } from 'typebox';
import type { Routes } from '../http/app.ts';
import { CallboardError } from '../model/errors.ts';
import { CODE_SOURCES_MAX } from '../model/limits.ts';
import { checkBranches, checkEnvironmentPattern } from './branches.ts';
import type { TruthDependencies } from './jobs.ts';
import { checkRepository, shownRepository } from './ref.ts';
import * as store from './store.ts';
import { queueSync } from './sync.ts';

const nullable = <Schema extends Parameters<typeof Type.Optional>[0]>(schema: Schema) =>
  Type.Union([schema, Type.Null()]);
const Time = Type.String({ format: 'date-time' });
const SourceParams = Type.Object({ source: Type.String({ maxLength: 300 }) });
const Source = {
  name: Type.String(),
  repo: Type.String({ description: 'without its password' }),
  branches: Type.String({ description: 'Globs, separated by spaces: which branches are environments' }),
  environment: Type.String({ description: 'How a branch names its environment: a pattern with {branch}' }),
  hooks: Type.Boolean({ description: 'It has a secret; without one its hooks are refused' }),
  poll_minutes: Type.Integer({ description: 'git is asked this often without a hook; 0: never' }),
  created_at: Time,
  synced_at: nullable(Type.String({ format: 'date-time', description: 'When the last sync began to ask git' })),
  error: nullable(Type.String({ description: 'Why the last sync failed' })),
  left_out: Type.Array(Type.Object({ branch: Type.String(), reason: Type.String() }), {
    description: 'Branches that match and are no environment',
  }),
};
const Branch = Type.Object({
  environment: Type.String(),
  branch: Type.String(),
  commit: Type.String({ description: 'What the branch meant when a deploy of it was last asked for' }),
  vanished_at: nullable(Type.String({ format: 'date-time', description: 'git has it no more' })),
  deploy: nullable(Type.String({ format: 'uuid', description: "The environment's deploy that was asked for last" })),
  deploy_state: nullable(Type.String()),
  deploy_at: nullable(Time),
});

const NAME = /^[a-z0-9][a-z0-9_-]{0,62}$/;
const SECRET_BYTES_MIN = 16;
const POLL_MINUTES_DEFAULT = 5;

export function sourceRoutes(deps: Pick<TruthDependencies, 'db' | 'secrets'>): Routes {
  const { db } = deps;
  const sourceOf = async (name: string): Promise<store.SourceRow> => {
    const source = await store.findSource(db, name);
    if (!source) throw new CallboardError('CODE_SOURCE_NOT_FOUND', { source: name });
    return source;
  };

  return (app) => {
    app.get(
      '/api/v1/code-sources',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'Every code source',
          response: { 200: Type.Object({ code_sources: Type.Array(Type.Object(Source)) }) },
        },
      },
      async () => ({ code_sources: (await store.listSources(db)).map(shownSource) }),
    );

    app.get(
      '/api/v1/code-sources/:source',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'A code source with its branches',
          params: SourceParams,
          response: { 200: Type.Object({ ...Source, code_branches: Type.Array(Branch) }) },
        },
      },
      async (request) => {
        const source = await sourceOf(request.params.source);
        return {
          ...shownSource(source),
          code_branches: (await store.listSourceBranches(db, source.name)).map((branch) => ({
            ...branch,
            vanished_at: branch.vanished_at?.toISOString() ?? null,
            deploy_at: branch.deploy_at?.toISOString() ?? null,
          })),
        };
      },
    );

    app.put(
      '/api/v1/code-sources/:source',
      {
        config: { access: 'admin' },
        schema: {
          summary: 'Make a code source, or change what is given of it',
          description:
            'A new one gets a secret for its hooks, unless one is given. A secret that the server makes is in this answer and is never shown again.',
          params: SourceParams,
          body: Type.Object(
            {
              repo: Type.Optional(Type.String()),
              branches: Type.Optional(Type.String()),
              environment: Type.Optional(Type.String()),
              poll_minutes: Type.Optional(Type.Integer({ minimum: 0, maximum: 10_080 })),
              secret: Type.Optional(nullable(Type.String({ maxLength: 1000, description: 'null: hooks are refused' }))),
              new_secret: Type.Optional(Type.Boolean({ description: 'The server makes another' })),
            },
            { additionalProperties: false },
          ),
          response: {
            200: Type.Object({
              ...Source,
              secret: nullable(Type.String({ description: 'What the server made, shown only now' })),
            }),
          },
        },
      },
      async (request) => {
        const { source: name } = request.params;
        const { body } = request;
        const refuse = (reason: string) => new CallboardError('CODE_SOURCE_INVALID', { reason });
        if (!NAME.test(name))
          throw refuse('its name must be lower-case letters, digits, dashes and underscores, 63 at most');
        if (typeof body.secret === 'string' && body.secret.length < SECRET_BYTES_MIN)
          throw refuse(`its secret is shorter than ${SECRET_BYTES_MIN} characters`);
        if (body.secret !== undefined && body.new_secret) throw refuse('a secret is given and another one asked for');

        let made: string | null = null;
        await db.transaction().execute(async (tx) => {
          const before = await store.lockSource(tx, name);
          const repo = body.repo ?? before?.repo;
          if (repo === undefined) throw refuse('it needs a repository');
          if (!before && (await store.listSources(tx)).length >= CODE_SOURCES_MAX)
            throw refuse(`there are ${CODE_SOURCES_MAX} already`);
          if (body.new_secret || (!before && body.secret === undefined)) made = randomBytes(32).toString('base64url');
          const secret = made ?? body.secret;
          await store.putSource(tx, {
            name,
            repo: checkRepository(repo),
            branches: checkBranches(body.branches ?? before?.branches ?? '*'),
            environment: checkEnvironmentPattern(body.environment ?? before?.environment ?? '{branch}'),
            poll_minutes: body.poll_minutes ?? before?.poll_minutes ?? POLL_MINUTES_DEFAULT,
            secret:
              secret === undefined ? before!.secret : secret === null ? null : await deps.secrets.seal(name, secret),
          });
          await queueSync(tx, name);
        });
        return { ...shownSource(await sourceOf(name)), secret: made };
      },
    );

    app.delete(
      '/api/v1/code-sources/:source',
      {
        config: { access: 'admin' },
        schema: {
          summary: 'Forget a code source',
          description: 'Its environments stay as they are, with their code.',
          params: SourceParams,
          response: { 204: Type.Null() },
        },
      },
      async (request, reply) => {
        const { source } = request.params;
        if (!(await store.deleteSource(db, source))) throw new CallboardError('CODE_SOURCE_NOT_FOUND', { source });
        return reply.status(204).send(null);
      },
    );

    app.post(
      '/api/v1/code-sources/:source/syncs',
      {
        config: { access: 'deployer' },
        schema: {
          summary: 'Ask git now where the branches are, and deploy those that moved',
          params: SourceParams,
          response: {
            202: Type.Object({
              asked_at: Type.String({
                format: 'date-time',
                description: 'It is done when `synced_at` is not before this',
              }),
            }),
          },
        },
      },
      async (request, reply) => {
        const { name } = await sourceOf(request.params.source);
        const asked = await store.clock(db);
        await queueSync(db, name);
        return reply.status(202).send({ asked_at: asked.toISOString() });
      },
    );
  };
}

function shownSource({ secret, ...source }: store.SourceRow) {
  return {
    ...source,
    repo: shownRepository(source.repo),
    hooks: secret !== null,
    created_at: source.created_at.toISOString(),
    synced_at: source.synced_at?.toISOString() ?? null,
  };
}
