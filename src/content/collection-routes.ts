/** Collections over HTTP: `callboard gc` and whoever wants to know what the last one of this process did. */

import { setTimeout as pause } from 'node:timers/promises';
import type {} from '@fastify/swagger'; // its schema fields: summary
import { Type } from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { COLLECT_ANSWER_TIME_MS } from '../model/limits.ts';
import type { Collections } from './jobs.ts';

const counts = Type.Object({
  compiles_forgotten: Type.Integer(),
  read_sets_forgotten: Type.Integer(),
  pointer_moves_forgotten: Type.Integer(),
  code_versions_forgotten: Type.Integer(),
  catalogs_forgotten: Type.Integer(),
  fact_documents_forgotten: Type.Integer(),
  content_removed: Type.Integer(),
  bytes_removed: Type.Integer(),
  content_named: Type.Integer(),
  content_spared: Type.Integer({ description: 'Named by nothing, but too young' }),
  content_checked: Type.Integer({ description: 'Read through and compared with its name' }),
  content_damaged: Type.Integer({ description: 'Of those, put into quarantine' }),
});

const collection = Type.Object({
  state: Type.Union([Type.Literal('none'), Type.Literal('running'), Type.Literal('done'), Type.Literal('failed')]),
  started_at: Type.Optional(Type.String({ format: 'date-time' })),
  finished_at: Type.Optional(Type.String({ format: 'date-time' })),
  collected: Type.Optional(counts),
  error: Type.Optional(Type.String()),
});

export function collectionRoutes(all: Collections): Routes {
  return (app: App) => {
    app.post(
      '/api/v1/collections',
      {
        config: { access: 'admin' },
        schema: {
          summary: 'Remove what nothing names any more; 202 when it goes on after a minute',
          response: { 200: counts, 202: Type.Object({ state: Type.Literal('running') }) },
        },
      },
      async (_request, reply) => {
        const over = new AbortController();
        const collecting = all.run();
        const collected = await Promise.race([
          collecting,
          pause(COLLECT_ANSWER_TIME_MS, undefined, { signal: over.signal }).catch(() => undefined),
        ]).finally(() => over.abort());
        if (collected) return collected;
        // Its failure is told by the other route.
        collecting.catch(() => {});
        return reply.status(202).send({ state: 'running' as const });
      },
    );

    app.get(
      '/api/v1/collections/latest',
      {
        config: { access: 'admin' },
        schema: { summary: 'What the last collection of this process did', response: { 200: collection } },
      },
      () => {
        const latest = all.latest();
        if (!latest) return { state: 'none' as const };
        return {
          state: latest.state,
          started_at: latest.startedAt.toISOString(),
          ...(latest.finishedAt && { finished_at: latest.finishedAt.toISOString() }),
          ...(latest.collected && { collected: latest.collected }),
          ...(latest.error && { error: latest.error }),
        };
      },
    );
  };
}
