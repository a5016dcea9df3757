/**
 * The job `deploy`. Its states: queued → running → done | failed | superseded. It reads everything anew each time, so a deploy
 * whose server was killed runs again from the start and comes to the same names. What whoever asked can mend (a reference that
 * is not there, a Puppetfile that r10k cannot install) ends it as failed at once; anything else is tried again by the queue.
 *
 * Deploys of different environments run side by side. Of one environment the last asked for wins: asking for it ends, in the
 * same transaction, those that wait or run. One that runs looks at its row twice a second and gives up.
 */
import type { Logger } from 'pino';
import { CallboardError } from '../model/errors.ts';
import { type CodeVersionHash, parseEnvironmentName } from '../model/ids.ts';
import { DEPLOY_LOOK_MS, DEPLOY_TIME_MAX_MS, TRIAL_TIME_MS } from '../model/limits.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { notify } from '../postgres/listen.ts';
import type { JobHandlers } from '../postgres/queue.ts';
import { type CodeVersion, type CodeVersionSettings, type DeployedContent, makeCodeVersion } from './code-version.ts';
import { openDeployLog } from './deploy-log.ts';
import { secretsOf } from './ref.ts';
import * as store from './store.ts';
import { runSync } from './sync.ts';

export interface TruthDependencies extends CodeVersionSettings {
  db: Database;
  /** Seals the hook secrets of code sources at rest; a sealed one opens under its own source's name only. */
  secrets: {
    seal(source: string, secret: string): Promise<Buffer>;
    /** Throws CODE_SOURCE_SECRET_UNREADABLE. */
    open(source: string, sealed: Buffer): Promise<string>;
  };
  content: DeployedContent;
  logger: Logger;
  /** Queues the compiles that a code version makes necessary, in the transaction that makes it the environment's newest. */
  queueEnvironmentCompiles: (
    tx: Transaction,
    environment: string,
    codeVersion: CodeVersionHash,
    trigger: string,
  ) => Promise<unknown>;
  /** The same for those nodes only whose catalogs may differ from what they were. `deploy`: whose log tells how many those are. */
  queueAffected: (
    tx: Transaction,
    environment: string,
    codeVersion: CodeVersionHash,
    trigger: string,
    deploy: string,
  ) => Promise<unknown>;
}

export function truthJobs(deps: TruthDependencies): JobHandlers {
  return {
    async deploy(payload, context) {
      await runDeploy(deps, payload.deploy, context);
    },
    async sync(payload, context) {
      await runSync(deps, payload.source, context.signal);
    },
  };
}

async function runDeploy(
  deps: TruthDependencies,
  id: string,
  context: { signal: AbortSignal; lastAttempt: boolean },
): Promise<void> {
  const { db } = deps;
  const deploy = await store.startDeploy(db, id);
  if (!deploy) return;
  const logger = deps.logger.child({ deploy: id, environment: deploy.environment });
  const log = openDeployLog({
    bytes: Buffer.byteLength(deploy.log),
    secrets: secretsOf(deploy.repo),
    async append(text) {
      await store.appendDeployLog(db, id, text);
      await notify(db, 'callboard_progress', { kind: 'deploy', id });
    },
  });
  const fail = async (reason: string): Promise<void> => {
    await log.end(reason);
    await store.endDeploy(db, id, { state: 'failed', error: reason });
    await notify(db, 'callboard_progress', { kind: 'deploy', id });
    logger.info({ state: 'failed', reason }, 'deploy ended');
  };

  if (deploy.resumed) log.line('Begun again: the server that ran this deploy had stopped');
  const time = new AbortController();
  const timer = setTimeout(
    () =>
      time.abort(
        new CallboardError('CODE_DEPLOY_FAILED', {
          reason: `The deploy took longer than ${DEPLOY_TIME_MAX_MS / 60_000} minutes`,
        }),
      ),
    DEPLOY_TIME_MAX_MS,
  );
  const superseded = new AbortController();
  const look = setInterval(() => {
    // A look that fails is followed by another; at the end the row is read under its environment's lock.
    store.isSuperseded(db, id).then(
      (ended) => ended && superseded.abort(new Error('superseded')),
      () => {},
    );
  }, DEPLOY_LOOK_MS);
  try {
    const version = await makeCodeVersion(
      deps,
      { repo: deploy.repo, ref: deploy.ref, environment: parseEnvironmentName(deploy.environment), deploy: id },
      {
        signal: AbortSignal.any([context.signal, time.signal, superseded.signal]),
        log: (line) => log.line(line),
        since: Date.now() - deploy.waited_ms,
      },
    );
    const sentence = await finish(deps, deploy, version);
    if (sentence === undefined) superseded.abort();
    else {
      await log.end(sentence);
      await notify(db, 'callboard_progress', { kind: 'deploy', id });
      logger.info({ code_version: version.id, commit: version.commit }, 'deploy ended');
    }
  } catch (error) {
    if (superseded.signal.aborted) return;
    if (error instanceof CallboardError && error.status < 500) return await fail(error.message);
    const reason = error instanceof Error ? error.message : String(error);
    if (context.signal.aborted || !context.lastAttempt) {
      await log.end(
        context.signal.aborted
          ? 'The server stops: this deploy goes on when it is back'
          : `${reason}: tried again soon`,
      );
      await store.requeueDeploy(db, id).catch(() => {});
    } else {
      await fail(reason);
    }
    throw error;
  } finally {
    clearTimeout(timer);
    clearInterval(look);
    if (superseded.signal.aborted) {
      await log.end('Given up: a newer deploy was asked for');
      logger.info({ state: 'superseded' }, 'deploy ended');
    }
  }
}

/**
 * One transaction: the code version becomes visible, its compiles are queued, the deploy is done; a sentence about it.
 * Undefined: a newer deploy was asked for, and nothing is done.
 */
async function finish(
  deps: TruthDependencies,
  deploy: store.DeployRow,
  version: CodeVersion,
): Promise<string | undefined> {
  return await deps.db.transaction().execute(async (tx) => {
    const environment = await store.lockEnvironment(tx, deploy.environment);
    if (!environment) throw new Error(`environment ${deploy.environment} is gone`);
    // Whoever asks for a newer one ends this one under the same lock.
    if (!(await store.isRunning(tx, deploy.id))) return undefined;

    await store.lockReferences(tx);
    const missing = await deps.content.missing(version.contents);
    if (missing.length > 0) throw new Error(`${missing.length} files were collected while they were deployed`);
    await store.insertCodeVersion(tx, version);
    await store.insertReferences(tx, version.plugins, version.pluginContents);
    await store.endDeploy(tx, deploy.id, {
      state: 'done',
      error: null,
      commit: version.commit,
      codeVersion: version.id,
    });
    const short = version.id.slice(0, 12);
    if (environment.code_version === version.id) {
      return `Code version ${short}: the code is what it was`;
    }
    if (deploy.trial) {
      await store.insertTrial(tx, deploy.environment, version.id, TRIAL_TIME_MS);
      await deps.queueAffected(tx, deploy.environment, version.id, `trial of code ${short}`, deploy.id);
      return `Code version ${short} is on trial: compiled, and never released`;
    }
    await store.setEnvironmentCode(tx, deploy.environment, version.id);
    await deps.queueAffected(tx, deploy.environment, version.id, `code version ${short} deployed`, deploy.id);
    return `Code version ${short} is the newest of ${deploy.environment}`;
  });
}
