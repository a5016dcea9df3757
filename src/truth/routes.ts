/** `/api/v1/environments…` and `/api/v1/deploys/…`: what people see and ask of truth. */
import { Readable } from 'node:stream';
import { Type } from 'typebox';
import type { Routes } from '../http/app.ts';
import { identityName } from '../http/identity.ts';
import { CallboardError } from '../model/errors.ts';
import { type CodeVersionHash, parseEnvironmentName } from '../model/ids.ts';
import { PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, TRIAL_BYTES_MAX } from '../model/limits.ts';
import { checkEncCommand } from './enc.ts';
import type { TruthDependencies } from './jobs.ts';
import { shownRepository } from './ref.ts';
import { requestDeploy } from './request.ts';
import * as store from './store.ts';
import { requestTrial, TRIAL_REF } from './trials.ts';

const nullable = <Schema extends Parameters<typeof Type.Optional>[0]>(schema: Schema) =>
  Type.Union([schema, Type.Null()]);
const Time = Type.String({ format: 'date-time' });
const Hash = Type.String({ description: 'SHA-256, lower-case hexadecimal' });
const CodePolicy = Type.Union([Type.Literal('held'), Type.Literal('auto')]);
const FactsPolicy = Type.Union([Type.Literal('auto'), Type.Literal('held')]);
const RunPolicy = Type.Union([Type.Literal('do'), Type.Literal('noop')]);

const EnvironmentParams = Type.Object({ environment: Type.String() });
const Environment = Type.Object({
  name: Type.String(),
  code_policy: CodePolicy,
  facts_policy: FactsPolicy,
  run_policy: RunPolicy,
  enc_command: nullable(Type.String()),
  enc_interval_minutes: Type.Integer({ description: 'The ENC is asked again this often; 0: never by itself' }),
  recompile_minutes: Type.Integer({ description: 'Volatile catalogs are compiled again at least this often' }),
  audit_share: Type.Number({ description: 'Of skipped compiles, this share is compiled all the same and compared' }),
  code_version: nullable(Hash),
  released_code_version: nullable(Hash),
  created_at: Time,
});
const DeployFields = {
  id: Type.String({ format: 'uuid' }),
  environment: Type.String(),
  repo: Type.String({ description: 'without its password' }),
  ref: Type.String(),
  commit: nullable(Type.String()),
  code_version: nullable(Hash),
  state: Type.String({ description: 'queued, running, done, failed or superseded' }),
  error: nullable(Type.String()),
  requested_by: Type.String(),
  created_at: Time,
  finished_at: nullable(Time),
  trial: Type.Boolean({ description: 'Made from an uploaded working tree' }),
};
const Deploy = Type.Object({ ...DeployFields, log: Type.String() });
const CodeVersion = Type.Object({
  id: Hash,
  commit: nullable(Type.String()),
  repo: Type.String(),
  ref: Type.String(),
  file_count: Type.Integer(),
  byte_count: Type.Integer(),
  created_at: Time,
  deployed_at: Time,
  newest: Type.Boolean(),
  released: Type.Boolean(),
});

export interface TruthRoutesDeps extends Pick<TruthDependencies, 'db' | 'state' | 'queueEnvironmentCompiles'> {
  /** Makes an environment's policies, as they are now, true of what is compiled already. Safe to repeat. */
  applyPolicies(environment: string): Promise<unknown>;
}

export function truthRoutes(deps: TruthRoutesDeps): Routes {
  const { db } = deps;
  const environmentOf = async (name: string): Promise<store.EnvironmentRow> => {
    const environment = await store.findEnvironment(db, parseEnvironmentName(name));
    if (!environment) throw new CallboardError('ENVIRONMENT_NOT_FOUND', { environment: name });
    return environment;
  };

  return (app) => {
    app.get(
      '/api/v1/environments',
      {
        config: { access: 'viewer' },
        schema: { response: { 200: Type.Object({ environments: Type.Array(Environment) }) } },
      },
      async () => ({ environments: (await store.listEnvironments(db)).map(shownEnvironment) }),
    );

    app.get(
      '/api/v1/environments/:environment',
      { config: { access: 'viewer' }, schema: { params: EnvironmentParams, response: { 200: Environment } } },
      async (request) => shownEnvironment(await environmentOf(request.params.environment)),
    );

    app.put(
      '/api/v1/environments/:environment',
      {
        config: { access: 'admin' },
        schema: {
          params: EnvironmentParams,
          body: Type.Object(
            {
              code_policy: Type.Optional(CodePolicy),
              facts_policy: Type.Optional(FactsPolicy),
              run_policy: Type.Optional(RunPolicy),
              enc_command: Type.Optional(nullable(Type.String({ maxLength: 4096 }))),
              enc_interval_minutes: Type.Optional(Type.Integer({ minimum: 0, maximum: 10_080 })),
              recompile_minutes: Type.Optional(Type.Integer({ minimum: 1, maximum: 10_080 })),
              audit_share: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
            },
            { additionalProperties: false },
          ),
          response: { 200: Environment },
        },
      },
      async (request) => {
        const name = parseEnvironmentName(request.params.environment);
        const { body } = request;
        if (body.enc_command) await checkEncCommand(body.enc_command);
        await db.transaction().execute(async (tx) => {
          await store.createEnvironment(tx, name);
          const before = (await store.lockEnvironment(tx, name))!;
          const after = { ...before, ...body };
          await store.setEnvironmentPolicies(tx, name, after);
          if (after.enc_command === before.enc_command) return;
          const versions = new Set([before.code_version, before.released_code_version]);
          for (const version of versions) {
            if (version)
              await deps.queueEnvironmentCompiles(
                tx,
                name,
                version as CodeVersionHash,
                `the ENC of ${name} was changed`,
              );
          }
        });
        // After the commit: releasing takes the environment's lock, which the transaction above held.
        await deps.applyPolicies(name);
        return shownEnvironment(await environmentOf(name));
      },
    );

    app.get(
      '/api/v1/environments/:environment/code',
      {
        config: { access: 'viewer' },
        schema: {
          params: EnvironmentParams,
          querystring: Type.Object({
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: PAGE_ROWS_MAX })),
          }),
          response: { 200: Type.Object({ code_versions: Type.Array(CodeVersion) }) },
        },
      },
      async (request) => {
        const { name } = await environmentOf(request.params.environment);
        const versions = await store.listCode(db, name, request.query.limit ?? PAGE_ROWS_DEFAULT);
        return {
          code_versions: versions.map((version) => ({
            ...version,
            repo: shownRepository(version.repo),
            created_at: version.created_at.toISOString(),
            deployed_at: version.deployed_at.toISOString(),
          })),
        };
      },
    );

    app.post(
      '/api/v1/environments/:environment/deploys',
      {
        config: { access: 'deployer' },
        schema: {
          params: EnvironmentParams,
          body: Type.Object(
            {
              repo: Type.Optional(Type.String({ description: "Default: that of the environment's code source" })),
              ref: Type.Optional(
                Type.String({
                  description: "Default: the environment's branch there, or HEAD of a repository that is given",
                }),
              ),
            },
            { additionalProperties: false },
          ),
          response: { 202: Type.Object({ id: Type.String({ format: 'uuid' }) }) },
        },
      },
      async (request, reply) => {
        const id = await requestDeploy(deps, {
          environment: request.params.environment,
          repo: request.body.repo,
          ref: request.body.ref,
          requestedBy: identityName(request.identity),
        });
        return reply.status(202).send({ id });
      },
    );

    app.post(
      '/api/v1/environments/:environment/trials',
      {
        config: { access: 'deployer' },
        bodyLimit: TRIAL_BYTES_MAX,
        schema: {
          summary: `Compile a working tree that was not pushed; the body is a bundle of git that holds ${TRIAL_REF}`,
          params: EnvironmentParams,
          response: { 202: Type.Object({ id: Type.String({ format: 'uuid', description: 'Of the deploy' }) }) },
        },
      },
      async (request, reply) => {
        if (Number(request.headers['content-length'] ?? 0) > TRIAL_BYTES_MAX)
          throw new CallboardError('BODY_TOO_LARGE', { max: TRIAL_BYTES_MAX });
        const id = await requestTrial(deps, {
          environment: parseEnvironmentName(request.params.environment),
          requestedBy: identityName(request.identity),
          bundle: (request.body as Readable | undefined) ?? Readable.from([]),
        });
        return reply.status(202).send({ id });
      },
    );

    app.get(
      '/api/v1/deploys/:id',
      {
        config: { access: 'viewer' },
        schema: { params: Type.Object({ id: Type.String({ maxLength: 100 }) }), response: { 200: Deploy } },
      },
      async (request) => {
        const { id } = request.params;
        const deploy = UUID.test(id) ? await store.findDeploy(db, id) : undefined;
        if (!deploy) throw new CallboardError('DEPLOY_NOT_FOUND', { id });
        return { ...shownDeploy(deploy), log: deploy.log };
      },
    );

    app.get(
      '/api/v1/deploys/:id/log',
      {
        config: { access: 'viewer' },
        schema: {
          summary: "A deploy's log, as it is written",
          description: 'Ask again from `next` until the state is neither queued nor running.',
          params: Type.Object({ id: Type.String({ maxLength: 100 }) }),
          querystring: Type.Object(
            {
              from: Type.Integer({
                minimum: 0,
                maximum: 2_000_000_000,
                default: 0,
                description: 'Characters to leave out',
              }),
            },
            { additionalProperties: false },
          ),
          response: {
            200: Type.Object({
              state: Type.String(),
              error: nullable(Type.String()),
              text: Type.String(),
              next: Type.Integer({ description: 'Where the next piece begins' }),
            }),
          },
        },
      },
      async (request) => {
        const { id } = request.params;
        const log = UUID.test(id) ? await store.readDeployLog(db, id, request.query.from) : undefined;
        if (!log) throw new CallboardError('DEPLOY_NOT_FOUND', { id });
        return log;
      },
    );

    app.get(
      '/api/v1/environments/:environment/deploys',
      {
        config: { access: 'viewer' },
        schema: {
          summary: "An environment's deploys, the last asked for first",
          params: EnvironmentParams,
          querystring: Type.Object(
            {
              limit: Type.Integer({ minimum: 1, maximum: PAGE_ROWS_MAX, default: PAGE_ROWS_DEFAULT }),
              before: Type.Optional(Type.String({ format: 'date-time', description: 'Only those asked for before' })),
            },
            { additionalProperties: false },
          ),
          response: { 200: Type.Object({ deploys: Type.Array(Type.Object(DeployFields)) }) },
        },
      },
      async (request) => {
        const { name } = await environmentOf(request.params.environment);
        const { before, limit } = request.query;
        const deploys = await store.listDeploys(db, name, before ? new Date(before) : null, limit);
        return { deploys: deploys.map(shownDeploy) };
      },
    );
  };
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

function shownDeploy<Row extends Omit<store.DeployRow, 'log'>>(deploy: Row) {
  return {
    ...deploy,
    repo: shownRepository(deploy.repo),
    created_at: deploy.created_at.toISOString(),
    finished_at: deploy.finished_at?.toISOString() ?? null,
  };
}

function shownEnvironment(environment: store.EnvironmentRow) {
  return { ...environment, created_at: environment.created_at.toISOString() };
}
