import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, InvalidArgumentError } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { ago, short, table } from './table.ts';

interface CodeSource {
  name: string;
  repo: string;
  branches: string;
  environment: string;
  hooks: boolean;
  poll_minutes: number;
  synced_at: string | null;
  error: string | null;
  left_out: { branch: string; reason: string }[];
}

interface CodeBranch {
  environment: string;
  branch: string;
  commit: string;
  vanished_at: string | null;
  deploy: string | null;
  deploy_state: string | null;
  deploy_at: string | null;
}

type Detail = CodeSource & { code_branches: CodeBranch[] };

/** How long `code sync` waits for git and for the deploys: longer than the server lets them take. */
const FOLLOW_MS_MAX = 20 * 60_000;

export function sourceCommand(): Command {
  const source = new Command('source').description('code sources: control repos whose branches are environments');

  withConnection(source.command('set'))
    .description('make a code source, or change what is given of it; its branches are deployed at once')
    .argument('<name>')
    .option('--repo <path-or-url>', 'the control repo; a path is one on the server')
    .option('--branches <globs>', 'which branches are environments, such as "*" or "main release_*" (default: *)')
    .option('--environment <pattern>', 'how a branch names its environment, such as site_{branch} (default: {branch})')
    .option('--poll <minutes>', 'how often git is asked without a hook; 0: never (default: 5)', minutes)
    .option('--secret-file <file>', 'take the secret of its hooks from a file, or from - for stdin')
    .option('--new-secret', 'make another secret, and print it, this once')
    .option('--no-hooks', 'forget the secret: hooks are refused')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nA new code source gets a secret, which is printed this once.\n\nExample:\n  callboard code source set main --repo https://git.example/puppet/control-repo.git --branches "production staging feature_*"',
    )
    .action(async (name: string, flags) => {
      const api = ApiClient.from(flags);
      const secret = flags.secretFile
        ? readFileSync(flags.secretFile === '-' ? 0 : flags.secretFile, 'utf8').trim()
        : flags.hooks === false
          ? null
          : undefined;
      const set = await api.put<CodeSource & { secret: string | null }>(
        `/api/v1/code-sources/${encodeURIComponent(name)}`,
        {
          ...(flags.repo === undefined ? {} : { repo: flags.repo }),
          ...(flags.branches === undefined ? {} : { branches: flags.branches }),
          ...(flags.environment === undefined ? {} : { environment: flags.environment }),
          ...(flags.poll === undefined ? {} : { poll_minutes: flags.poll }),
          ...(secret === undefined ? {} : { secret }),
          ...(flags.newSecret ? { new_secret: true } : {}),
        },
      );
      if (flags.json) process.stdout.write(`${JSON.stringify(set)}\n`);
      else if (set.secret === null) process.stdout.write(`Set ${name}\n`);
      else {
        process.stderr.write(`Set ${name}. The secret of its hooks, shown only now:\n`);
        process.stdout.write(`${set.secret}\n`);
      }
      await api.close();
    });

  withConnection(source.command('list'))
    .description('every code source')
    .option('--json', 'print JSON')
    .action(async (flags) => {
      const api = ApiClient.from(flags);
      const { code_sources } = await api.get<{ code_sources: CodeSource[] }>('/api/v1/code-sources');
      const lines = code_sources.map((one) => [
        one.name,
        one.branches,
        one.environment,
        one.hooks ? 'yes' : 'no',
        one.poll_minutes ? `${one.poll_minutes}m` : 'never',
        one.error ? pc.red(`${ago(one.synced_at)}: failed`) : ago(one.synced_at),
        one.repo,
      ]);
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(code_sources)}\n`
          : `${table(['CODE SOURCE', 'BRANCHES', 'ENVIRONMENT', 'HOOKS', 'POLL', 'SYNCED', 'REPO'], lines)}\n`,
      );
      await api.close();
    });

  withConnection(source.command('show'))
    .description('a code source with its branches')
    .argument('<name>')
    .option('--json', 'print JSON')
    .action(async (name: string, flags) => {
      const api = ApiClient.from(flags);
      const detail = await api.get<Detail>(`/api/v1/code-sources/${encodeURIComponent(name)}`);
      process.stdout.write(flags.json ? `${JSON.stringify(detail)}\n` : describe(detail));
      await api.close();
    });

  withConnection(source.command('remove'))
    .description('forget a code source; its environments stay as they are')
    .argument('<name>')
    .action(async (name: string, flags) => {
      const api = ApiClient.from(flags);
      await api.delete(`/api/v1/code-sources/${encodeURIComponent(name)}`);
      process.stdout.write(`Removed ${name}\n`);
      await api.close();
    });

  return source;
}

export function syncCommand(): Command {
  return withConnection(new Command('sync'))
    .description('ask git now where the branches of code sources are, and deploy those that moved')
    .argument('[source]', 'default: every code source')
    .option('--no-wait', 'do not wait for the deploys')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nExample:\n  callboard code sync\n\nExit codes: 0 synced and deployed, 1 git or a deploy failed.',
    )
    .action(async (name: string | undefined, flags) => {
      const api = ApiClient.from(flags);
      const names = name
        ? [name]
        : (await api.get<{ code_sources: CodeSource[] }>('/api/v1/code-sources')).code_sources.map((one) => one.name);
      const details = await Promise.all(names.map((one) => sync(api, one, flags.wait)));
      if (flags.json) process.stdout.write(`${JSON.stringify(details)}\n`);
      else for (const detail of details) process.stdout.write(describe(detail));
      if (details.some((detail) => detail.error ?? detail.code_branches.some(isFailedNow(detail))))
        process.exitCode = 1;
      await api.close();
    });
}

/** A deploy that this sync asked for, and that failed. */
function isFailedNow(source: Detail): (branch: CodeBranch) => boolean {
  return (branch) =>
    branch.deploy_state === 'failed' && branch.deploy_at !== null && branch.deploy_at >= (source.synced_at ?? '');
}

async function sync(api: ApiClient, name: string, wait: boolean): Promise<Detail> {
  const path = `/api/v1/code-sources/${encodeURIComponent(name)}`;
  const { asked_at } = await api.post<{ asked_at: string }>(`${path}/syncs`);
  const deadline = Date.now() + FOLLOW_MS_MAX;
  for (;;) {
    const detail = await api.get<Detail>(path);
    const synced = detail.synced_at !== null && detail.synced_at >= asked_at;
    const busy = detail.code_branches.some(
      (branch) => branch.deploy_state === 'queued' || branch.deploy_state === 'running',
    );
    if (synced && !(wait && busy)) return detail;
    if (Date.now() > deadline) throw new Error(`the sync of ${name} goes on; see: callboard code source show ${name}`);
    await sleep(200);
  }
}

function describe(source: Detail): string {
  const lines = source.code_branches.map((branch) => [
    branch.environment,
    branch.branch,
    short(branch.commit),
    branch.vanished_at
      ? pc.yellow(`the branch vanished ${ago(branch.vanished_at)} ago; the environment stays`)
      : branch.deploy_state === null
        ? '-'
        : `${branch.deploy_state === 'failed' ? pc.red('failed') : branch.deploy_state} ${ago(branch.deploy_at)} ago`,
  ]);
  return [
    `${pc.bold(source.name)}: ${source.repo}, synced ${source.synced_at ? `${ago(source.synced_at)} ago` : 'never'}`,
    ...(source.error ? [pc.red(source.error)] : []),
    ...(lines.length > 0 ? [table(['ENVIRONMENT', 'BRANCH', 'COMMIT', 'DEPLOY'], lines)] : []),
    ...source.left_out.map(({ branch, reason }) => pc.yellow(`'${branch}' is left out: ${reason}`)),
    '',
  ].join('\n');
}

function minutes(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Give minutes, or 0.');
  return Number(text);
}
