/**
 * A real control plane with real Puppet and a real git control repo, and nodes that are nothing but certificates and facts.
 * The command line is the real one, run in this process.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type pg from 'pg';
import { Agent, request } from 'undici';
import { afterAll, vi } from 'vitest';
import { startServer } from '../../src/app.ts';
import { ApiClient } from '../../src/cli/client.ts';
import { runProgram } from '../../src/cli/program.ts';
import { createLogger } from '../../src/config/log.ts';
import { parseSettings } from '../../src/config/settings.ts';
import { openCa } from '../../src/http/ca.ts';
import { createToken } from '../../src/http/tokens.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { until } from '../postgres/until.ts';
import { type GitFixture, gitRepository } from '../truth/git-fixture.ts';

export interface PlannedFleet {
  api: ApiClient;
  pool: pg.Pool;
  repo: GitFixture;
  /** Submits a node's facts, as the node. */
  facts(certname: string, facts: object): Promise<void>;
  /** Commits and deploys; the code version. */
  deploy(files: Parameters<GitFixture['commit']>[0]): Promise<string>;
  /** Waits until every node with facts has a compile under the environment's newest code, and no job waits. */
  compiled(): Promise<void>;
  callboard(...args: string[]): Promise<{ exitCode: number; stdout: string; stderr: string }>;
}

export async function plannedFleet(): Promise<PlannedFleet> {
  const { pool, url: databaseUrl, db } = await freshDatabase();
  const state = await mkdtemp(join(tmpdir(), 'callboard-plan-'));
  const flags = { state, databaseUrl, listen: '127.0.0.1:0', metricsListen: 'off', serverName: 'localhost' };
  const settings = parseSettings({ ...flags, baseModulepath: '', compileWorkers: '2' }, {});
  const server = await startServer(settings, createLogger({ level: 'error' }));
  const ca = await openCa(state, { create: false });
  const { token } = await createToken(db, { name: 'test', role: 'deployer', days: 1 });
  const api = new ApiClient({ server: server.url!, token, ca: ca.certificatePem });
  const repo = gitRepository(undefined, 'file');
  afterAll(async () => {
    await api.close();
    await server.stop();
    await rm(state, { recursive: true, force: true });
  });

  return {
    api,
    pool,
    repo,
    async facts(certname, facts) {
      const issued = await ca.issue(certname);
      const dispatcher = new Agent({
        connect: { ca: ca.certificatePem, cert: issued.certificatePem, key: issued.privateKeyPem },
      });
      const answer = await request(`${server.url}/node/v1/nodes/${certname}/facts`, {
        method: 'PUT',
        body: JSON.stringify(facts),
        dispatcher,
      });
      if (answer.statusCode !== 200) throw new Error(`${answer.statusCode}: ${await answer.body.text()}`);
      await dispatcher.destroy();
    },
    async deploy(files) {
      repo.commit(files);
      const { id } = await api.post<{ id: string }>('/api/v1/environments/production/deploys', {
        repo: repo.directory,
        ref: 'main',
      });
      let deploy = { state: 'queued', error: '', code_version: '' };
      await until(async () => {
        deploy = await api.get<typeof deploy>(`/api/v1/deploys/${id}`);
        return deploy.state !== 'queued' && deploy.state !== 'running';
      });
      if (deploy.state !== 'done') throw new Error(`the deploy ${deploy.state}: ${deploy.error}`);
      return deploy.code_version;
    },
    async compiled() {
      await until(async () => {
        const { rows } = await pool.query(`
          select 1 from node n join environment e on e.name = n.environment
          left join compiled k on (k.certname, k.environment, k.code_version) = (n.certname, n.environment, e.code_version)
          where n.facts is not null and k.certname is null
          union all
          select 1 from graphile_worker._private_jobs where key like 'compile:%' and (is_available or locked_at is not null)`);
        return rows.length === 0;
      }, 150_000);
    },
    callboard: (...args) =>
      callboard(args, {
        CALLBOARD_SERVER: server.url!,
        CALLBOARD_TOKEN: token,
        CALLBOARD_CA: join(state, 'ca/ca_crt.pem'),
      }),
  };
}

/** The program in this process: what it wrote, and its exit code. */
async function callboard(args: string[], env: Record<string, string>) {
  const told = { stdout: '', stderr: '' };
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      told[name] += text;
      return true;
    }),
  );
  Object.assign(process.env, env);
  try {
    await runProgram(['node', 'callboard', ...args]);
    const exitCode = Number(process.exitCode ?? 0);
    return { exitCode, stdout: told.stdout.trimEnd(), stderr: told.stderr.trimEnd() };
  } finally {
    process.exitCode = undefined;
    for (const spy of spies) spy.mockRestore();
  }
}

/** A site with a class of a file and its service, for web nodes; a class with data; and something for everybody. */
export const SITE = {
  'environment.conf': 'modulepath = modules\nmanifest = manifests\n',
  'manifests/site.pp': `
node default {
  if $facts['role'] == 'web' { include web }
  if $facts['role'] == 'db' { include db }
  if $facts['role'] == 'odd' { notify { 'odd': } }
}
`,
  'modules/web/manifests/init.pp': `
class web (Integer $workers = 2) {
  file { '/etc/web.conf': content => epp('web/web.conf.epp', { 'workers' => $workers }), notify => Service['web'] }
  file { '/etc/web.key': content => Sensitive("key \${facts['generation']}") }
  service { 'web': ensure => running }
}
`,
  'modules/web/templates/web.conf.epp': '<%- | Integer $workers | -%>\nlisten 80\nworkers <%= $workers %>\n',
  'modules/db/manifests/init.pp': "class db { package { 'postgresql': ensure => '15' } }\n",
};
