/**
 * Trials: code versions of working trees that were not pushed, so that their plan can be looked at. What is uploaded is a
 * bundle of git with one commit; it rests in `<state>/git/trials/` until its deploy ended, and is to that deploy a repository
 * like any other. The code version never becomes its environment's newest, and is forgotten after TRIAL_TIME_MS.
 *
 * The job `trials` forgets what is past its time, and removes the files of deploys that ended: it may run at any moment.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { CallboardError } from '../model/errors.ts';
import type { EnvironmentName } from '../model/ids.ts';
import { DEPLOY_TIME_MAX_MS, TRIAL_BYTES_MAX, TRIALS_WAITING_MAX } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import { enqueue, type JobHandlers, PRIORITY } from '../postgres/queue.ts';
import * as store from './store.ts';

export interface TrialDeps {
  db: Database;
  /** The server's state directory. */
  state: string;
}

/** The reference that a trial's bundle must hold. */
export const TRIAL_REF = 'refs/heads/trial';
const SIGNATURE = /^# v[23] git bundle\n/;

/**
 * Keeps an uploaded bundle and asks for its deploy; the deploy's id. Throws ENVIRONMENT_NOT_FOUND, BODY_TOO_LARGE,
 * TRIAL_INVALID, BUSY.
 */
export async function requestTrial(
  deps: TrialDeps,
  wish: { environment: EnvironmentName; requestedBy: string; bundle: Readable; bytesMax?: number },
): Promise<string> {
  const { environment, requestedBy } = wish;
  if (!(await store.findEnvironment(deps.db, environment)))
    throw new CallboardError('ENVIRONMENT_NOT_FOUND', { environment });
  await refuseWhenMany(deps.db, environment);
  const id = randomUUID();
  const repo = await keepBundle(deps.state, id, wish.bundle, wish.bytesMax ?? TRIAL_BYTES_MAX);
  try {
    await deps.db.transaction().execute(async (tx) => {
      await store.insertDeploy(tx, { environment, repo, ref: TRIAL_REF, requestedBy, trial: { id } });
      await enqueue(tx, 'deploy', { deploy: id }, { key: `deploy:${id}`, priority: PRIORITY.interactive });
    });
  } catch (error) {
    await rm(repo, { force: true });
    throw error;
  }
  return id;
}

export function trialJobs(deps: TrialDeps): JobHandlers {
  return {
    async trials() {
      await store.forgetTrials(deps.db);
      await sweep(deps);
    },
  };
}

async function refuseWhenMany(db: Database, environment: string): Promise<void> {
  if ((await store.countTrialsWaiting(db, environment)) >= TRIALS_WAITING_MAX)
    throw new CallboardError('BUSY', { reason: `${TRIALS_WAITING_MAX} trials of '${environment}' wait already` });
}

function directoryOf(state: string): string {
  return join(state, 'git', 'trials');
}

/** Written beside and renamed, so that a file with the name of a deploy is whole; its path. */
async function keepBundle(state: string, id: string, bundle: Readable, bytesMax: number): Promise<string> {
  const directory = directoryOf(state);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, `${id}.bundle`);
  const beside = join(directory, `${id}.part`);
  try {
    await pipeline(
      bundle.iterator({ destroyOnReturn: false }),
      atMost(bytesMax),
      createWriteStream(beside, { mode: 0o600, flush: true }),
    );
    await checkSignature(beside);
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
  return path;
}

function atMost(bytesMax: number): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes > bytesMax) done(new CallboardError('BODY_TOO_LARGE', { max: bytesMax }));
      else done(null, chunk);
    },
  });
}

/** git itself looks at the rest, in the deploy. */
async function checkSignature(path: string): Promise<void> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(64), 0, 64, 0);
    if (!SIGNATURE.test(buffer.toString('latin1', 0, bytesRead)))
      throw new CallboardError('TRIAL_INVALID', { reason: 'it does not begin as one' });
  } finally {
    await file.close();
  }
}

/** Removes the bundles of deploys that ended, and the mirrors that were made of them. */
async function sweep({ db, state }: TrialDeps): Promise<void> {
  const directory = directoryOf(state);
  const names = await readdir(directory).catch(() => []);
  const ids = names.flatMap((name) => /^([0-9a-f-]{36})\.bundle$/.exec(name)?.[1] ?? []);
  const open = new Set(await store.selectDeploysOpen(db, ids));
  for (const id of ids) {
    const path = join(directory, `${id}.bundle`);
    // A row that its upload has not written yet is as good as open.
    if (open.has(id) || !(await isOlderThan(path, DEPLOY_TIME_MAX_MS))) continue;
    const mirror = join(state, 'git', createHash('sha256').update(path).digest('hex'));
    await rm(mirror, { recursive: true, force: true });
    await rm(`${mirror}.gitconfig`, { force: true });
    await rm(path, { force: true });
  }
  for (const name of names) {
    const path = join(directory, name);
    if (name.endsWith('.part') && (await isOlderThan(path, 2 * DEPLOY_TIME_MAX_MS))) await rm(path, { force: true });
  }
}

async function isOlderThan(path: string, ms: number): Promise<boolean> {
  const about = await stat(path).catch(() => undefined);
  return about !== undefined && Date.now() - about.mtimeMs > ms;
}
