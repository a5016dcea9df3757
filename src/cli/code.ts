import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import { sourceCommand, syncCommand } from './code-source.ts';
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
  requested_by: string;
  created_at: string;
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
  const code = new Command('code').description(
    'code from git: code sources, deploys, and the code versions that they make',
  );

  withConnection(code.command('deploy'))
    .description(
      "make a code version from a git control repo; the environment's nodes are compiled under it, none is changed until it is released",
    )
    .argument('<environment>', 'the environment, such as production')
    .option(
      '--repo <path-or-url>',
      "the control repo; a path is one on the server (default: that of the environment's code source)",
    )
    .option('--ref <ref>', "branch, tag or commit (default: the environment's branch, or HEAD with --repo)")
    .option('--json', 'print the deploy as JSON')
    .addHelpText(
      'after',
      '\nExamples:\n  callboard code deploy production\n  callboard code deploy production --repo /srv/control-repo --ref main\n\nExit codes: 0 deployed, 1 failed or superseded.',
    )
    .action(async (environment: string, flags) => {
      const api = ApiClient.from(flags);
      const repo = flags.repo && existsSync(flags.repo) ? resolve(flags.repo) : flags.repo;
      const { id } = await api.post<{ id: string }>(`/api/v1/environments/${encodeURIComponent(environment)}/deploys`, {
        ...(repo ? { repo } : {}),
        ...(flags.ref ? { ref: flags.ref } : {}),
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

  withConnection(code.command('deploys'))
    .description('the deploys of an environment, the last asked for first')
    .argument('<environment>')
    .option('--json', 'print JSON')
    .action(async (environment: string, flags) => {
      const api = ApiClient.from(flags);
      const deploys = await deploysOf(api, environment, 50);
      const lines = deploys.map((one) => [
        one.id,
        one.state === 'failed' ? pc.red(one.state) : one.state,
        ago(one.created_at),
        one.ref,
        short(one.commit),
        short(one.code_version),
        one.requested_by,
      ]);
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(deploys)}\n`
          : `${table(['DEPLOY', 'STATE', 'AGO', 'REF', 'COMMIT', 'CODE VERSION', 'ASKED BY'], lines)}\n`,
      );
      await api.close();
    });

  withConnection(code.command('log'))
    .description('what a deploy said; of one that runs, live to its end')
    .argument('<deploy-or-environment>', "a deploy's id, or an environment: then the last deploy of it")
    .option('--json', 'print the deploy as JSON')
    .addHelpText(
      'after',
      '\nExample:\n  callboard code log production\n\nExit codes: 0 deployed, 1 failed or superseded.',
    )
    .action(async (name: string, flags) => {
      const api = ApiClient.from(flags);
      const id = name.includes('-') ? name : (await deploysOf(api, name, 1))[0]?.id;
      if (id === undefined) throw new Error(`no deploy of ${name} was asked for yet`);
      const deploy = await follow(api, id, flags.json ? () => {} : (text) => process.stdout.write(text));
      if (flags.json) process.stdout.write(`${JSON.stringify(deploy)}\n`);
      else if (deploy.state !== 'done') process.stderr.write(`${pc.red(deploy.state)}: ${deploy.error}\n`);
      if (deploy.state !== 'done') process.exitCode = 1;
      await api.close();
    });

  code.addCommand(sourceCommand());
  code.addCommand(syncCommand());
  return code;
}

async function deploysOf(api: ApiClient, environment: string, limit: number): Promise<Omit<Deploy, 'log'>[]> {
  const path = `/api/v1/environments/${encodeURIComponent(environment)}/deploys?limit=${limit}`;
  return (await api.get<{ deploys: Omit<Deploy, 'log'>[] }>(path)).deploys;
}

/** Reads a deploy's log until it ended, telling each new piece of it. */
export async function follow(api: ApiClient, id: string, say: (text: string) => void): Promise<Deploy> {
  const deadline = Date.now() + FOLLOW_MS_MAX;
  const path = `/api/v1/deploys/${encodeURIComponent(id)}`;
  let from = 0;
  for (;;) {
    const log = await api.get<{ state: Deploy['state']; text: string; next: number }>(`${path}/log?from=${from}`);
    say(log.text);
    from = log.next;
    if (log.state !== 'queued' && log.state !== 'running') return await api.get<Deploy>(path);
    if (Date.now() > deadline) throw new Error(`deploy ${id} is still ${log.state}; see: callboard code log ${id}`);
    await sleep(150);
  }
}
