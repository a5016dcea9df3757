/**
 * `POST /hooks/git/:environment`: a git server says that something moved. It is only a hint which environment to look at: the
 * sender must know the secret of its code source, nothing of the body is believed, and what follows is that git itself is asked,
 * by a job. So a hook that is replayed can do no more than have git asked again. Answered as soon as the job's row is written.
 */
import { Type } from 'typebox';
import type { Routes } from '../http/app.ts';
import { readChunks } from '../http/body.ts';
import { CallboardError } from '../model/errors.ts';
import { HOOK_BODY_BYTES_MAX, HOOK_SECRETS_MAX, HOOKS_AT_ONCE_MAX } from '../model/limits.ts';
import { mayName } from './branches.ts';
import { Deliveries, deliveryOf, isSignature, isToken, readProof, signing } from './hook-proof.ts';
import type { TruthDependencies } from './jobs.ts';
import * as store from './store.ts';
import { queueSync } from './sync.ts';

const Answer = Type.Object({
  code_sources: Type.Array(Type.String()),
  repeated: Type.Boolean({ description: 'This delivery was taken before, and nothing was done' }),
});

export function hookRoutes(deps: Pick<TruthDependencies, 'db' | 'secrets'>): Routes {
  const { db } = deps;
  const deliveries = new Deliveries();
  let checking = 0;

  /** The code sources whose secret the request shows. */
  async function verify(request: Parameters<typeof readChunks>[0], environment: string): Promise<string[]> {
    const proof = readProof(request.headers);
    if (!proof) return [];
    const found = await store.sourcesWithSecrets(db, environment);
    const holders = found.filter((source) => source.holds);
    const asked = holders.length > 0 ? holders : found.filter((source) => mayName(source.environment, environment));
    const sources = await Promise.all(
      asked
        .slice(0, HOOK_SECRETS_MAX)
        .map(async ({ name, secret }) => ({ name, secret: await deps.secrets.open(name, secret) })),
    );
    if (proof.kind === 'token')
      return sources.filter(({ secret }) => isToken(proof.token, secret)).map(({ name }) => name);
    if (sources.length === 0) return [];
    const signed = sources.map(({ name, secret }) => ({ name, hmac: signing(secret) }));
    for await (const bytes of readChunks(request, { max: HOOK_BODY_BYTES_MAX }))
      for (const { hmac } of signed) hmac.update(bytes);
    return signed.filter(({ hmac }) => isSignature(proof.digest, hmac)).map(({ name }) => name);
  }

  return (app) => {
    app.post(
      '/hooks/git/:environment',
      {
        config: { access: 'hook' },
        schema: {
          summary: 'Say that a branch moved',
          description:
            'For GitHub, GitLab, Gitea, Forgejo and post-receive hooks. Asks git where the branches of the code source of this environment are, and deploys those that moved.',
          params: Type.Object({ environment: Type.String({ maxLength: 300 }) }),
          response: { 200: Answer, 202: Answer },
        },
      },
      async (request, reply) => {
        if (checking >= HOOKS_AT_ONCE_MAX) throw new CallboardError('BUSY', { reason: 'Too many hooks come at once' });
        checking += 1;
        try {
          const sources = await verify(request, request.params.environment);
          if (sources.length === 0) throw new CallboardError('HOOK_UNVERIFIED');
          const delivery = deliveryOf(request.headers);
          const known = delivery === undefined ? undefined : `${sources.join(' ')} ${delivery}`;
          if (known !== undefined && deliveries.has(known)) return { code_sources: sources, repeated: true };
          for (const source of sources) await queueSync(db, source);
          if (known !== undefined) deliveries.add(known);
          return await reply.status(202).send({ code_sources: sources, repeated: false });
        } finally {
          checking -= 1;
        }
      },
    );
  };
}
