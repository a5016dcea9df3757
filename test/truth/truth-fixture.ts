/** The truth room with a real database, content store and state directory. */
import { sql } from 'kysely';
import pino from 'pino';
import { openDiskContent } from '../../src/content/disk.ts';
import { type TruthDependencies, truthJobs } from '../../src/truth/jobs.ts';
import { requestDeploy } from '../../src/truth/request.ts';
import { type DeployRow, findDeploy } from '../../src/truth/store.ts';
import type { FreshDatabase } from '../postgres/fresh.ts';
import { temporaryDirectory } from './git-fixture.ts';

export interface TruthFixture {
  deps: TruthDependencies;
  state: string;
  content: Awaited<ReturnType<typeof openDiskContent>>;
  /** Calls of `queueEnvironmentCompiles`, in order. */
  queued: { environment: string; codeVersion: string; trigger: string }[];
  /** Asks for a deploy and runs its job here. */
  deploy(environment: string, repo: string, ref?: string): Promise<DeployRow>;
  request(environment: string, repo: string, ref?: string): Promise<string>;
  run(id: string, options?: { signal?: AbortSignal; lastAttempt?: boolean }): Promise<DeployRow>;
}

/** Secrets as they are, with the name that they belong to. */
const plainSecrets: TruthDependencies['secrets'] = {
  seal: async (source, secret) => Buffer.from(`${source}:${secret}`),
  open: async (source, sealed) => sealed.toString().slice(source.length + 1),
};

export async function truthFixture(
  database: FreshDatabase,
  options: Partial<TruthDependencies> = {},
  until: 'test' | 'file' = 'test',
): Promise<TruthFixture> {
  await sql`truncate environment, code_version, deploy, content_reference, code_source cascade`.execute(database.db);
  const state = temporaryDirectory('state', until);
  const content = await openDiskContent({ directory: `${state}/content`, fsync: false });
  const queued: TruthFixture['queued'] = [];
  const deps: TruthDependencies = {
    db: database.db,
    content,
    state,
    basemodulepath: [],
    r10k: 'r10k',
    secrets: plainSecrets,
    logger: pino({ level: 'silent' }),
    async queueAffected(tx, environment, codeVersion, trigger) {
      await this.queueEnvironmentCompiles(tx, environment, codeVersion, trigger);
    },
    async queueEnvironmentCompiles(_tx, environment, codeVersion, trigger) {
      queued.push({ environment, codeVersion, trigger });
    },
    ...options,
  };
  const request = (environment: string, repo: string, ref = 'main') =>
    requestDeploy(deps, { environment, repo, ref, requestedBy: 'operator test' });
  const run: TruthFixture['run'] = async (id, { signal = new AbortController().signal, lastAttempt = true } = {}) => {
    await truthJobs(deps).deploy!({ deploy: id }, { signal, attempt: 1, lastAttempt });
    return (await findDeploy(deps.db, id))!;
  };
  return {
    deps,
    state,
    content,
    queued,
    request,
    run,
    deploy: async (environment, repo, ref) => run(await request(environment, repo, ref)),
  };
}
