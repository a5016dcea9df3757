import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { ago, short, table } from './table.ts';

export interface Deploy {
  id: string;
  environment: string;
  repo: string;
  ref: string;
  commit: string | null;
  code_version: string | null;
  state: 'queued' | 'running' | 'done' | 'failed' | 'superseded';
  error: string | null;
  log: string;
}

interface CodeVersion {
  id: string;
  commit: string | null;
  file_count: number;
  created_at: string;
  newest: boolean;
  released: boolean;
}

/** How long `code deploy` follows a deploy: longer than the server lets one take. */
const FOLLOW_MS_MAX = 20 * 60_000;

export function codeCommand(): Command {
  const code = new Command('code').description('code versions: immutable snapshots of an environment, made from git');

  withConnection(code.command('deploy'))
    .description(
      "make a code version from a git control repo; the environment's nodes are compiled under it, none is changed until it is released",
    )
    .argument('<environment>', 'the environment, such as production')
    .requiredOption('--repo <path-or-url>', 'the control repo; a path is one on the server')
    .option('--ref <ref>', 'branch, tag or commit', 'HEAD')
    .option('--json', 'print the deploy as JSON')
    .addHelpText(
      'after',
      '\nExample:\n  callboard code deploy production --repo /srv/control-repo --ref main\n\nExit codes: 0 deployed, 1 failed or superseded.',
    )
    .action(async (environment: string, flags) => {
      const api = ApiClient.from(flags);
      const repo = existsSync(flags.repo) ? resolve(flags.repo) : flags.repo;
      const { id } = await api.post<{ id: string }>(`/api/v1/environments/${encodeURIComponent(environment)}/deploys`, {
        repo,
        ref: flags.ref,
      });
      const deploy = await follow(api, id, flags.json ? () => {} : (text) => process.stderr.write(pc.dim(text)));
      if (flags.json) process.stdout.write(`${JSON.stringify(deploy)}\n`);
      else if (deploy.state === 'done')
        process.stdout.write(
          `Deployed ${environment}: code version ${pc.bold(short(deploy.code_version))} from commit ${short(deploy.commit)}\n`,
        );
      else process.stdout.write(`${pc.red(deploy.state)}: ${deploy.error ?? 'a newer deploy took its place'}\n`);
      if (deploy.state !== 'done') process.exitCode = 1;
      await api.close();
    });

  withConnection(code.command('list'))
    .description('the code versions of an environment, newest first')
    .argument('<environment>')
    .option('--json', 'print JSON')
    .action(async (environment: string, flags) => {
      const api = ApiClient.from(flags);
      const answer = await api.get<{ code_versions: CodeVersion[] }>(
        `/api/v1/environments/${encodeURIComponent(environment)}/code`,
      );
      if (flags.json) process.stdout.write(`${JSON.stringify(answer.code_versions)}\n`);
      else {
        const lines = answer.code_versions.map((version) => [
          short(version.id),
          short(version.commit),
          String(version.file_count),
          ago(version.created_at),
          [version.newest ? 'newest' : '', version.released ? 'released' : ''].filter(Boolean).join(', '),
        ]);
        process.stdout.write(`${table(['CODE VERSION', 'COMMIT', 'FILES', 'AGE', ''], lines)}\n`);
      }
      await api.close();
    });

  return code;
}

/** Polls a deploy until it ended, telling each new piece of its log. */
export async function follow(api: ApiClient, id: string, say: (text: string) => void): Promise<Deploy> {
  const deadline = Date.now() + FOLLOW_MS_MAX;
  let told = 0;
  for (;;) {
    const deploy = await api.get<Deploy>(`/api/v1/deploys/${id}`);
    if (deploy.log.length > told) say(deploy.log.slice(told));
    told = deploy.log.length;
    if (deploy.state !== 'queued' && deploy.state !== 'running') return deploy;
    if (Date.now() > deadline) throw new Error(`deploy ${id} is still ${deploy.state}; see: GET /api/v1/deploys/${id}`);
    await sleep(150);
  }
}
