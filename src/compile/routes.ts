/** A node's compiles, for people. */
import Type from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { CallboardError } from '../model/errors.ts';
import { parseCertname } from '../model/ids.ts';
import { PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import { forecast } from './forecast.ts';
import { listCompiles, nodeExists, queuedCompiles, recentSeconds } from './store.ts';

const Nullable = <Schema extends Type.TSchema>(schema: Schema) => Type.Union([schema, Type.Null()]);
const Message = {
  message: Type.String(),
  file: Nullable(Type.String({ description: 'In the code version' })),
  line: Nullable(Type.Integer()),
};
const Compile = Type.Object({
  id: Type.String(),
  environment: Type.String(),
  code_version: Type.String(),
  trigger: Type.String({ description: 'Why it ran' }),
  facts: Nullable(Type.String()),
  enc_hash: Nullable(Type.String()),
  catalog: Nullable(Type.String({ description: 'Null where it failed' })),
  error: Nullable(Type.Object(Message)),
  warnings: Type.Array(Type.Object({ ...Message, level: Type.String() })),
  started_at: Type.String(),
  finished_at: Type.String(),
  cpu_ms: Nullable(Type.Integer()),
});

export function compileRoutes(deps: { db: Database; workers: number }): Routes {
  return (app: App) => {
    app.get(
      '/api/v1/compiles/queue',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'Compiles that wait or run, and when they will be done',
          response: {
            200: Type.Object({
              waiting: Type.Integer(),
              running: Type.Integer(),
              workers: Type.Integer({ description: 'Compiles that run at once in this process' }),
              seconds_per_compile: Nullable(Type.Number()),
              seconds_left: Nullable(Type.Number({ description: 'Until the queue is empty, if nothing is added' })),
              compiles: Type.Array(
                Type.Object({
                  environment: Type.String(),
                  code_version: Type.String(),
                  priority: Type.Integer({ description: 'Lower runs sooner' }),
                  waiting: Type.Integer(),
                  running: Type.Integer(),
                }),
              ),
            }),
          },
        },
      },
      async () => {
        const compiles = await queuedCompiles(deps.db);
        const waiting = compiles.reduce((sum, each) => sum + each.waiting, 0);
        const running = compiles.reduce((sum, each) => sum + each.running, 0);
        const times = await recentSeconds(deps.db);
        return {
          waiting,
          running,
          workers: deps.workers,
          ...forecast(waiting + running, times, deps.workers),
          compiles,
        };
      },
    );

    app.get(
      '/api/v1/nodes/:certname/compiles',
      {
        config: { access: 'viewer' },
        schema: {
          summary: "A node's compiles, the last first",
          params: Type.Object({ certname: Type.String({ minLength: 1, maxLength: 253 }) }),
          querystring: Type.Object(
            {
              before: Type.Optional(Type.String({ format: 'date-time', description: 'Only those that ended before' })),
              limit: Type.Optional(Type.Integer({ minimum: 1, maximum: PAGE_ROWS_MAX })),
            },
            { additionalProperties: false },
          ),
          response: { 200: Type.Object({ compiles: Type.Array(Compile) }) },
        },
      },
      async (request) => {
        const certname = parseCertname(request.params.certname);
        const { before, limit } = request.query;
        if (!(await nodeExists(deps.db, certname))) throw new CallboardError('NODE_NOT_FOUND', { certname });
        const found = await listCompiles(
          deps.db,
          certname,
          before ? new Date(before) : null,
          limit ?? PAGE_ROWS_DEFAULT,
        );
        return {
          compiles: found.map((compile) => ({
            ...compile,
            started_at: compile.started_at.toISOString(),
            finished_at: compile.finished_at.toISOString(),
          })),
        };
      },
    );
  };
}
