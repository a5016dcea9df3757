/**
 * The job `classify`: ENCs are asked again about every node that is due, because somebody wants it or by the clock. Which
 * nodes those are stands in the database, so the job says nothing, and one that was killed is as good as one that was not
 * begun. An answer that differs is stored and queues the node's compiles in the same transaction; one that does not costs a row
 * in a batch. An ENC that fails leaves everything as it is, and is asked again when the node is due the next time.
 */
import type { Logger } from 'pino';
import type { Certname } from '../model/ids.ts';
import { ENC_AT_ONCE_MAX, ENC_BATCH_MAX } from '../model/limits.ts';
import type { Database, Queries } from '../postgres/database.ts';
import { enqueue, type JobHandlers, PRIORITY } from '../postgres/queue.ts';
import { type Classification, classify, type EncAnswer } from './classification.ts';
import { isAnswerInUse, lockNode, markAsked, type NodeDue, nodesDue } from './classification-store.ts';
import { queueCompiles } from './queue.ts';
import { moveNode, readEncCommand, storeEncAnswer } from './store.ts';

export interface ClassificationJobsDeps {
  db: Database;
  logger: Logger;
  askEnc(command: string, certname: Certname, signal?: AbortSignal): Promise<EncAnswer>;
}

export function queueClassify(db: Queries, priority: number = PRIORITY.background): Promise<void> {
  return enqueue(db, 'classify', {}, { key: 'classify', priority });
}

export function classificationJobs(deps: ClassificationJobsDeps): JobHandlers {
  return {
    async classify(_payload, { signal }) {
      for (;;) {
        const due = await nodesDue(deps.db, ENC_BATCH_MAX);
        if (due.length === 0) return;
        await askAll(deps, due, signal);
      }
    },
  };
}

async function askAll(deps: ClassificationJobsDeps, due: NodeDue[], signal: AbortSignal): Promise<void> {
  const settled: Certname[] = [];
  const failures: string[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    for (let node = due[next++]; node; node = due[next++]) {
      signal.throwIfAborted();
      let answer: Classification;
      try {
        answer = await askAbout(deps, node, signal);
      } catch (error) {
        signal.throwIfAborted();
        failures.push(error instanceof Error ? error.message : String(error));
        settled.push(node.certname);
        continue;
      }
      if (!(await take(deps, node, answer))) settled.push(node.certname);
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: ENC_AT_ONCE_MAX }, work));
  await markAsked(deps.db, settled, due[0]!.now);
  if (failures.length > 0)
    deps.logger.warn({ nodes: failures.length, reason: failures[0] }, 'an ENC could not be asked again');
  for (const each of ended) if (each.status === 'rejected') throw each.reason;
}

function askAbout(deps: ClassificationJobsDeps, node: NodeDue, signal: AbortSignal): Promise<Classification> {
  return classify(
    {
      encCommand: async (environment) => (await readEncCommand(deps.db, environment))?.enc_command,
      askEnc: (command, certname) => deps.askEnc(command, certname, signal),
    },
    node.certname,
    node.environment,
  );
}

/** False: everything is as it was, and only that it was asked is left to be noted. */
async function take(deps: ClassificationJobsDeps, node: NodeDue, answer: Classification): Promise<boolean> {
  const { certname, environment, now: at } = node;
  const { enc } = answer;
  const moves = answer.environment !== environment;
  if (!moves && (enc === null || (await isAnswerInUse(deps.db, certname, enc.hash)))) return false;
  const trigger = moves ? `the ENC put it into ${answer.environment}` : "the ENC's answer changed";
  const taken = await deps.db.transaction().execute(async (tx) => {
    if (!(await lockNode(tx, certname, environment))) return false;
    if (enc) await storeEncAnswer(tx, certname, enc, at);
    if (moves) await moveNode(tx, certname, environment, answer.environment);
    await queueCompiles(tx, certname, trigger);
    return true;
  });
  if (taken) deps.logger.info({ certname, environment: answer.environment, trigger }, 'node classified anew');
  return taken && enc !== null;
}
