/**
 * The whole loop for benches and tests: a control plane, a git control repo and this machine as its node, each a process of its
 * own as in production, in a folder that goes away at the end.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import { ApiClient, type Connection } from '../../src/cli/client.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/callboard.ts', import.meta.url));
export const CERTNAME = 'loop.callboard.test';

export interface Stage {
  api: ApiClient;
  folder: string;
  /** Replaces the site manifest and commits it. */
  commit(sitePp: string): Promise<void>;
  /** Deploys what is committed; returns when the code version is made. */
  deploy(): Promise<void>;
  stop(): Promise<void>;
}

interface Deploy {
  state: string;
  error: string | null;
}

/** Starts it all; returns when the node has sent its facts. */
export async function openStage(sitePp: string): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), 'callboard-loop-'));
  const state = join(folder, 'server');
  const repo = join(folder, 'repo');
  const daemons: ResultPromise[] = [];
  const callboard = (args: string[]) =>
    execa(process.execPath, [PROGRAM, ...args], { env: { XDG_CONFIG_HOME: join(folder, 'config') } });
  const daemon = (name: string, args: string[]): void => {
    const log = { file: join(folder, `${name}.log`) };
    daemons.push(
      execa(process.execPath, [PROGRAM, ...args], {
        stdout: log,
        stderr: log,
        reject: false,
        forceKillAfterDelay: false,
      }),
    );
  };
  const git = (...args: string[]) =>
    execa('git', ['-C', repo, '-c', 'user.name=Bench', '-c', 'user.email=bench@callboard.test', ...args]);

  daemon('server', [
    'server',
    '--state',
    state,
    '--listen',
    '127.0.0.1:0',
    '--server-name',
    'localhost',
    '--metrics-listen',
    'off',
    '--base-modulepath',
    '',
  ]);
  const url = await until('the control plane', async () => {
    const log = await readFile(join(folder, 'server.log'), 'utf8');
    return /"url":"(https:[^"]+)"/.exec(log)?.[1];
  });
  const { stdout: token } = await callboard(['operator', 'token', 'create', '--role', 'admin', '--state', state]);
  await callboard(['cert', 'issue', CERTNAME, '--out', join(folder, 'node/ssl'), '--state', state]);
  const connection: Connection = {
    server: url,
    token: token.trim(),
    ca: await readFile(join(state, 'ca/ca_crt.pem'), 'utf8'),
  };
  const api = new ApiClient(connection);

  await mkdir(join(repo, 'manifests'), { recursive: true });
  await execa('git', ['init', '-q', '-b', 'main', repo]);
  await writeFile(join(repo, 'environment.conf'), 'manifest = manifests\nmodulepath = modules\n');
  const stage: Stage = {
    api,
    folder,
    async commit(text) {
      await writeFile(join(repo, 'manifests/site.pp'), text);
      await git('add', '-A');
      await git('commit', '-qm', 'change');
    },
    async deploy() {
      const { id } = await api.post<{ id: string }>('/api/v1/environments/production/deploys', { repo, ref: 'main' });
      const deploy = await until(
        'the deploy',
        async () => {
          const found = await api.get<Deploy>(`/api/v1/deploys/${id}`);
          return found.state === 'queued' || found.state === 'running' ? undefined : found;
        },
        10,
      );
      if (deploy.state !== 'done') throw new Error(`the deploy ${deploy.state}: ${deploy.error}`);
    },
    async stop() {
      for (const child of daemons.reverse()) {
        child.kill('SIGTERM');
        await child;
      }
      await api.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
  await stage.commit(sitePp);
  await stage.deploy();
  daemon('node', [
    'node',
    '--server',
    url,
    '--certname',
    CERTNAME,
    '--state',
    join(folder, 'node'),
    '--splay',
    '0s',
    '--wake-splay',
    '0s',
  ]);
  await until('facts', async () => (await nodeOf(stage).catch(() => undefined))?.facts_at);
  return stage;
}

export interface NodeNow {
  facts_at: string | null;
  candidate_catalog: string | null;
  candidate_code_version: string | null;
  released_catalog: string | null;
  run: { id: string; status: string; catalog: string | null } | null;
}

export function nodeOf(stage: Stage): Promise<NodeNow> {
  return stage.api.get<NodeNow>(`/api/v1/nodes/${CERTNAME}`);
}

/** Waits for a state, five minutes at most. */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined | null | false>,
  everyMs = 50,
): Promise<T> {
  const deadline = Date.now() + 300_000;
  let last: unknown;
  while (Date.now() < deadline) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    await sleep(everyMs);
  }
  throw new Error(`waited in vain for ${what}`, { cause: last });
}
