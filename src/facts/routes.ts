/** `PUT /node/v1/nodes/:certname/facts`: see docs/formats/facts-v1.md for what a node sends and is answered. */
import { Type } from 'typebox';
import type { Routes } from '../http/app.ts';
import { readBody } from '../http/body.ts';
import { CallboardError } from '../model/errors.ts';
import { extensionsText, splitFacts } from '../model/facts.ts';
import { parseCertname, parseContentHash, parseEnvironmentName } from '../model/ids.ts';
import { FACTS_BYTES_MAX } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import { type CompileQueue, factsIntake } from './submission.ts';

export interface FactsDeps extends CompileQueue {
  db: Database;
}

export function factsRoutes(deps: FactsDeps): Routes {
  return (app) => {
    const intake = factsIntake(deps.db, deps);
    app.put(
      '/node/v1/nodes/:certname/facts',
      {
        config: { access: 'node' },
        bodyLimit: FACTS_BYTES_MAX,
        schema: {
          summary: "Submit a node's facts",
          description:
            'With If-None-Match and no body: 304 when the stored facts have this hash, else 428. With a body, the values object ' +
            'of Facter as JSON, plain or gzip: the facts are stored, and compiles are queued when they changed.',
          tags: ['node'],
          params: Type.Object({ certname: Type.String() }),
          querystring: Type.Object({ environment: Type.String({ default: 'production' }) }),
          response: {
            200: Type.Object({
              facts: Type.String({ description: 'SHA-256 of the stable document' }),
              changed: Type.Boolean({ description: 'Whether it is another one than before' }),
            }),
            304: Type.Null({ description: 'The stored facts have this hash' }),
          },
        },
      },
      async (request, reply) => {
        const certname = parseCertname(request.params.certname);
        const environment = parseEnvironmentName(request.query.environment);
        if (request.identity.kind !== 'node') throw new Error('a route for nodes was entered by somebody else');
        const extensions = extensionsText(request.identity.extensions);

        if (hasBody(request.headers)) {
          const { hash, stable, volatile } = splitFacts(await readBody(request, { max: FACTS_BYTES_MAX, gzip: true }));
          const changed = await intake.submit({ certname, facts: hash, stable, volatile, environment, extensions });
          return reply.header('etag', `"${hash}"`).send({ facts: hash, changed });
        }
        const named = request.headers['if-none-match'];
        if (named === undefined) throw new CallboardError('FACTS_NEEDED');
        const facts = parseContentHash(named.replace(/^(?:W\/)?"(.*)"$/, '$1'));
        if (!(await intake.renew({ certname, facts, environment, extensions })))
          throw new CallboardError('FACTS_NEEDED');
        return reply.code(304).header('etag', `"${facts}"`).send(null);
      },
    );
  };
}

function hasBody(headers: {
  'content-length'?: string | undefined;
  'transfer-encoding'?: string | undefined;
}): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
}
