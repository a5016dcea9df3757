/** Whether the process is alive, and whether it can serve. Open to anybody, so they say no more than that. */
import { Type } from 'typebox';
import { READY_CHECK_MAX_MS } from '../model/limits.ts';
import type { Routes } from './app.ts';

/** By name: what must work for requests to be served. A check that throws, or takes too long, has failed. */
export type ReadyChecks = Record<string, () => unknown>;

export function healthRoutes({ checks }: { checks: ReadyChecks }): Routes {
  return (app) => {
    app.get(
      '/healthz',
      {
        config: { access: 'public' },
        schema: { summary: 'The process is alive', response: { 200: Type.Object({ alive: Type.Literal(true) }) } },
      },
      () => ({ alive: true as const }),
    );
    const Ready = Type.Object({ ready: Type.Boolean(), failed: Type.Array(Type.String()) });
    app.get(
      '/readyz',
      {
        config: { access: 'public' },
        schema: { summary: 'The process can serve', response: { 200: Ready, 503: Ready } },
      },
      async (request, reply) => {
        const failed: string[] = [];
        await Promise.all(
          Object.entries(checks).map(async ([name, check]) => {
            try {
              await within(READY_CHECK_MAX_MS, check);
            } catch (error) {
              request.log.warn({ err: error, check: name }, 'not ready');
              failed.push(name);
            }
          }),
        );
        return reply.status(failed.length > 0 ? 503 : 200).send({ ready: failed.length === 0, failed: failed.sort() });
      },
    );
  };
}

async function within(ms: number, check: () => unknown): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`took longer than ${ms} ms`)), ms);
  });
  try {
    await Promise.race([(async () => check())(), late]);
  } finally {
    clearTimeout(timer);
  }
}
