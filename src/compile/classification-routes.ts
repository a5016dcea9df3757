/** `POST /api/v1/enc/refresh`: whoever keeps the truth that an ENC tells says that it may have changed. */
import { Type } from 'typebox';
import type { Routes } from '../http/app.ts';
import { CallboardError } from '../model/errors.ts';
import { parseCertname, parseEnvironmentName } from '../model/ids.ts';
import { NODES_NAMED_MAX } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import { PRIORITY } from '../postgres/queue.ts';
import { queueClassify } from './classification-jobs.ts';
import { wantAsked } from './classification-store.ts';
import { readEncCommand } from './store.ts';

export function classificationRoutes(deps: { db: Database }): Routes {
  return (app) => {
    app.post(
      '/api/v1/enc/refresh',
      {
        config: { access: 'deployer' },
        schema: {
          summary: 'Have ENCs asked again',
          description:
            'About the nodes that are named, those of an environment, or all. A node whose answer differs is compiled; any other is left alone.',
          body: Type.Object(
            {
              certnames: Type.Optional(Type.Array(Type.String(), { minItems: 1, maxItems: NODES_NAMED_MAX })),
              environment: Type.Optional(Type.String()),
            },
            { additionalProperties: false },
          ),
          response: {
            202: Type.Object({
              nodes: Type.Integer({ description: 'Nodes that are asked about' }),
              left_out: Type.Array(Type.String(), {
                description: 'Named nodes that are not there, have no facts or no ENC, or are in another environment',
              }),
            }),
          },
        },
      },
      async (request, reply) => {
        const certnames = request.body.certnames?.map(parseCertname) ?? null;
        const environment = request.body.environment ? parseEnvironmentName(request.body.environment) : null;
        if (environment !== null && !(await readEncCommand(deps.db, environment)))
          throw new CallboardError('ENVIRONMENT_NOT_FOUND', { environment });
        const asked = await deps.db.transaction().execute(async (tx) => {
          const wanted = await wantAsked(tx, { certnames, environment });
          if (wanted.length > 0) await queueClassify(tx, PRIORITY.interactive);
          return new Set(wanted.map((node) => node.certname));
        });
        const leftOut = [...new Set(certnames)].filter((certname) => !asked.has(certname));
        return reply.status(202).send({ nodes: asked.size, left_out: leftOut });
      },
    );
  };
}
