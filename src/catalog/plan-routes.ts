/**
 * Plans: `GET /api/v1/plans/:environment`, a stream of JSON lines, one object each with one member that says what it is:
 *
 *     plan (what is compared) · progress, while compiles are under way and while catalogs are compared · group, the largest
 *     first · failure · not_compiled · summary, the last line of a whole plan · error, in its place
 *
 * The compiles were queued by the deploy: here they are only waited for. A notification wakes the wait; it polls all the
 * same (P7). When the time is up the plan goes on with what there is, and says which nodes are missing.
 */

import { Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Logger } from 'pino';
import Type from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { CallboardError } from '../model/errors.ts';
import { type EnvironmentName, parseEnvironmentName } from '../model/ids.ts';
import {
  PLAN_CONDITIONS_MAX,
  PLAN_LOOK_MIN_MS,
  PLAN_PAGE_NODES,
  PLAN_POLL_MS,
  PLAN_WAIT_MAX_MS,
  PLAN_WAIT_MS,
  PLANS_AT_ONCE_MAX,
} from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import type { Listener } from '../postgres/listen.ts';
import { parseConditions } from './conditions.ts';
import { changeOf, Plan } from './plan.ts';
import { type CatalogReading, readPair } from './reading.ts';
import {
  type CodeOrigin,
  codeByPrefix,
  environmentCode,
  nodesWhere,
  type PlanNode,
  type PlanProgress,
  type PlanScope,
  planNodes,
  planProgress,
} from './store.ts';

export interface PlanRoutesDeps extends CatalogReading {
  listener: Pick<Listener, 'on' | 'onGap'>;
  logger: Logger;
  /** Compiles that run at once: what the time left is reckoned with. */
  compileWorkers: number;
}

export function planRoutes(deps: PlanRoutesDeps): Routes {
  const bell = new Bell();
  deps.listener.on('callboard_progress', () => bell.ring());
  deps.listener.onGap(() => bell.ring());
  let open = 0;

  return (app: App) => {
    const stopping = new AbortController();
    app.addHook('preClose', async () => stopping.abort());

    app.get(
      '/api/v1/plans/:environment',
      {
        config: { access: 'viewer' },
        schema: {
          summary: 'What a code version would change on the nodes of an environment, as JSON lines',
          params: Type.Object({ environment: Type.String({ maxLength: 100 }) }),
          querystring: Type.Object({
            code: Type.Optional(
              Type.String({ pattern: '^[0-9a-f]{4,64}$', description: 'The first digits; default: the newest' }),
            ),
            where: Type.Optional(
              Type.Array(Type.String({ maxLength: 1000, description: 'certname=web* or facts.os.family=Debian' }), {
                maxItems: PLAN_CONDITIONS_MAX,
              }),
            ),
            edges: Type.Boolean({ default: false, description: 'Also tell which edges differ' }),
            wait: Type.Integer({
              minimum: 0,
              maximum: PLAN_WAIT_MAX_MS / 1000,
              default: PLAN_WAIT_MS / 1000,
              description: 'Seconds to wait for compiles',
            }),
          }),
        },
      },
      async (request, reply) => {
        const environment = parseEnvironmentName(request.params.environment);
        const { code, where, edges, wait } = request.query;
        const origin = await originOf(deps.db, environment, code);
        const certnames = where && (await nodesWhere(deps.db, environment, parseConditions(where)));
        if (open >= PLANS_AT_ONCE_MAX)
          throw new CallboardError('BUSY', { reason: `${PLANS_AT_ONCE_MAX} plans are being made` });
        const scope = { environment, codeVersion: origin.code_version, certnames };
        const until = performance.now() + wait * 1000;
        const lines = made(deps, bell, { origin, scope, edges, until, stop: stopping.signal });
        open++;
        const stream = Readable.from(lines, { objectMode: false });
        stream.once('close', () => open--);
        request.streamed = true;
        reply.header('content-type', 'application/x-ndjson; charset=utf-8').header('x-accel-buffering', 'no');
        return reply.send(stream);
      },
    );
  };
}

/** Throws ENVIRONMENT_NOT_FOUND, CODE_VERSION_NOT_FOUND, CODE_VERSION_AMBIGUOUS. */
async function originOf(db: Database, environment: EnvironmentName, prefix: string | undefined): Promise<CodeOrigin> {
  const newest = await environmentCode(db, environment);
  if (!newest) throw new CallboardError('ENVIRONMENT_NOT_FOUND', { environment });
  const value = prefix ?? newest.code_version;
  if (value === null) throw new CallboardError('NOTHING_TO_RELEASE', { reason: `'${environment}' has no code yet` });
  const found = await codeByPrefix(db, environment, value);
  if (found.length === 0) throw new CallboardError('CODE_VERSION_NOT_FOUND', { environment, value });
  if (found.length > 1) throw new CallboardError('CODE_VERSION_AMBIGUOUS', { value });
  return found[0]!;
}

interface Wish {
  origin: CodeOrigin;
  scope: PlanScope;
  edges: boolean;
  until: number;
  stop: AbortSignal;
}

async function* made(deps: PlanRoutesDeps, bell: Bell, wish: Wish): AsyncGenerator<string> {
  const { origin, scope } = wish;
  try {
    yield line({ plan: { environment: scope.environment, ...origin } });
    yield* waitForCompiles(deps, bell, wish);
    const plan = new Plan();
    yield* compare(deps, wish, plan);
    // The change is JSON already, its numbers as they stand in the catalogs.
    for (const { change, ...group } of plan.groups())
      yield `{"group":${JSON.stringify({ count: group.certnames.length, ...group }).slice(0, -1)},"change":${change}}}\n`;
    for (const failure of plan.failures()) yield line({ failure: { count: failure.certnames.length, ...failure } });
    const notCompiled = plan.notCompiledNodes();
    if (notCompiled.length > 0) yield line({ not_compiled: { count: notCompiled.length, certnames: notCompiled } });
    yield line({ summary: plan.summary() });
  } catch (error) {
    if (wish.stop.aborted) return;
    if (!(error instanceof CallboardError)) deps.logger.error({ err: error }, 'a plan failed');
    const told = error instanceof CallboardError ? error : { code: 'UNEXPECTED', message: 'The server failed' };
    yield line({ error: { hint: 'See its log.', ...JSON.parse(JSON.stringify(told)) } });
  }
}

function line(value: object): string {
  return `${JSON.stringify(value)}\n`;
}

async function* waitForCompiles(deps: PlanRoutesDeps, bell: Bell, wish: Wish): AsyncGenerator<string> {
  for (;;) {
    wish.stop.throwIfAborted();
    const rung = bell.next();
    const progress = await planProgress(deps.db, wish.scope);
    yield line({ progress: { stage: 'compiling', ...shown(progress, deps.compileWorkers) } });
    if (!progress.deciding && progress.queued === 0) return;
    const left = wish.until - performance.now();
    if (left <= 0) return;
    await pause(Math.min(PLAN_LOOK_MIN_MS, left), wish.stop);
    await Promise.race([rung, pause(Math.min(PLAN_POLL_MS, Math.max(0, left - PLAN_LOOK_MIN_MS)), wish.stop)]);
  }
}

function shown({ total, done, queued, mean_seconds: mean }: PlanProgress, workers: number) {
  const seconds_left = mean === null ? null : Math.ceil((queued * mean) / workers);
  return { total, done, queued, seconds_left };
}

/** Ends early, without a word, when the server stops: the next look says so. */
async function pause(ms: number, stop: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const end = () => resolve();
  stop.addEventListener('abort', end, { once: true });
  await promise;
  clearTimeout(timer);
  stop.removeEventListener('abort', end);
}

/** How often a plan that compares says how far it is. */
const COMPARING_TOLD_MS = 1000;

async function* compare(deps: PlanRoutesDeps, wish: Wish, plan: Plan): AsyncGenerator<string> {
  const { total } = await planProgress(deps.db, wish.scope);
  const startedAt = performance.now();
  let [told, done, after] = [startedAt, 0, ''];
  for (;;) {
    const page = await planNodes(deps.db, wish.scope, after, PLAN_PAGE_NODES);
    for (const node of page) {
      wish.stop.throwIfAborted();
      await compareNode(deps, wish, plan, node);
      done++;
      const now = performance.now();
      if (now - told > COMPARING_TOLD_MS) {
        told = now;
        const seconds_left = Math.ceil(((now - startedAt) / 1000 / done) * Math.max(0, total - done));
        yield line({ progress: { stage: 'comparing', total, done, queued: 0, seconds_left } });
      }
    }
    if (page.length < PLAN_PAGE_NODES) return;
    after = page.at(-1)!.certname;
  }
}

async function compareNode(deps: PlanRoutesDeps, wish: Wish, plan: Plan, node: PlanNode): Promise<void> {
  const { certname, candidate, released } = node;
  const nothing = (): void => (node.carried_over ? plan.unaffected() : plan.unchanged());
  if (!node.compiled) return plan.notCompiled(certname);
  if (!candidate) return plan.fail(certname, failureOf(node));
  if (node.same) return nothing();
  try {
    const { older, newer, contents } = await readPair(deps, released, candidate);
    const change = changeOf(older, newer, contents, { edges: wish.edges });
    if (change) plan.change(certname, change);
    else nothing();
  } catch (error) {
    // A catalog that cannot be read is told of its node; the others have their plan all the same.
    if (!(error instanceof CallboardError)) throw error;
    plan.fail(certname, { message: error.message, file: null, line: null });
  }
  await nextTurn();
}

function failureOf({ error }: PlanNode) {
  return { message: error?.message ?? 'The compile failed', file: error?.file ?? null, line: error?.line ?? null };
}

/** Whoever waits for the next ring is woken by it. */
class Bell {
  #waiting = Promise.withResolvers<void>();

  ring(): void {
    this.#waiting.resolve();
    this.#waiting = Promise.withResolvers<void>();
  }

  next(): Promise<void> {
    return this.#waiting.promise;
  }
}
