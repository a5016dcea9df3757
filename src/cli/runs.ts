import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { type RunEventView, runEventLine } from './event-line.ts';
import { statusColour } from './run-status.ts';
import { ago, short, table } from './table.ts';

interface Run {
  id: string;
  certname: string;
  catalog: string | null;
  code_version: string | null;
  noop: boolean;
  request: string | null;
  status: string;
  started_at: string;
  finished_at: string | null;
  events: number;
  summary: Record<string, number> | null;
}

/** How long `run start --wait` waits for the nodes. */
const WAIT_MS_MAX = 10 * 60_000;

export function runCommand(): Command {
  const run = new Command('run').description('runs: one node applying one catalog');

  withConnection(run.command('list'))
    .description('runs, the last started first')
    .option('--node <certname>', 'only of this node')
    .option('--status <status>', 'only running, unchanged, changed or failed ones')
    .option('--limit <count>', 'how many at most', '20')
    .option('--json', 'print JSON')
    .action(async (flags) => {
      const api = ApiClient.from(flags);
      const query = new URLSearchParams({
        limit: flags.limit,
        ...(flags.node ? { certname: flags.node } : {}),
        ...(flags.status ? { status: flags.status } : {}),
      });
      const { runs } = await api.get<{ runs: Run[] }>(`/api/v1/runs?${query}`);
      const lines = runs.map((each) => [
        each.id,
        each.certname,
        statusColour(each.status) + (each.noop ? ' (noop)' : ''),
        `${ago(each.started_at)} ago`,
        short(each.catalog),
        counts(each.summary),
      ]);
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(runs)}\n`
          : `${table(['RUN', 'NODE', 'STATUS', 'STARTED', 'CATALOG', 'RESOURCES'], lines)}\n`,
      );
      await api.close();
    });

  withConnection(run.command('show'))
    .description('one run and what happened in it')
    .argument('<run>', "the run's id")
    .option('--all', 'also the resources that were as they should be')
    .option('--json', 'print the run and all its events as JSON')
    .action(async (id: string, flags) => {
      const api = ApiClient.from(flags);
      const detail = await api.get<Run>(`/api/v1/runs/${encodeURIComponent(id)}`);
      const events: RunEventView[] = [];
      for (let after: number | null = 0; after !== null; ) {
        const page: { events: RunEventView[]; next: number | null } = await api.get(
          `/api/v1/runs/${encodeURIComponent(id)}/events?limit=1000&after=${after}`,
        );
        events.push(...page.events);
        after = page.next;
      }
      if (flags.json) process.stdout.write(`${JSON.stringify({ ...detail, events })}\n`);
      else {
        process.stdout.write(
          `${pc.bold(detail.certname)} ${statusColour(detail.status)}${detail.noop ? ' (noop)' : ''}, catalog ${short(detail.catalog)} under code ${short(detail.code_version)}: ${counts(detail.summary)}\n`,
        );
        for (const event of events) {
          const line = runEventLine(event, { quietResources: !flags.all });
          if (line) process.stdout.write(`${pc.dim(event.at.slice(11, 23))} ${line}\n`);
        }
      }
      await api.close();
    });

  withConnection(run.command('start'))
    .description('ask nodes to run now')
    .argument('<nodes...>', 'certnames')
    .option('--noop', 'only say what would change')
    .option('--do', 'apply, whatever the policy says (a node started with --noop never does)')
    .option('--wait', 'wait until the runs ended, and say how')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nExample:\n  callboard run start web1.example web2.example --noop --wait\n\nExit codes: 0 asked (with --wait: every run ended well), 1 refused, 4 a run failed or did not end in time.',
    )
    .action(async (nodes: string[], flags, command: Command) => {
      if (flags.noop && flags.do) command.error('error: give --noop or --do, not both');
      const api = ApiClient.from(flags);
      const mode = flags.noop ? 'noop' : flags.do ? 'do' : 'policy';
      const asked = await api.post<{
        requests: { certname: string; id: string }[];
        skipped: { certname: string; reason: string }[];
      }>('/api/v1/run-requests', { nodes, mode });
      const ended: Run[] = flags.wait ? await waitFor(api, asked.requests) : [];
      if (flags.json) process.stdout.write(`${JSON.stringify({ ...asked, runs: ended })}\n`);
      else {
        for (const { certname } of asked.requests) {
          if (!flags.wait) process.stdout.write(`${certname}: asked to run\n`);
        }
        for (const each of ended)
          process.stdout.write(
            `${each.certname}: ${statusColour(each.status)}${each.noop ? ' (noop)' : ''}, ${counts(each.summary)}, run ${each.id}\n`,
          );
        for (const skip of asked.skipped) process.stderr.write(`${skip.certname}: ${skip.reason}\n`);
      }
      if (asked.skipped.length > 0) process.exitCode = 1;
      else if (flags.wait && (ended.length < asked.requests.length || ended.some((each) => each.status === 'failed')))
        process.exitCode = 4;
      await api.close();
    });

  return run;
}

async function waitFor(api: ApiClient, requests: { certname: string; id: string }[]): Promise<Run[]> {
  const deadline = Date.now() + WAIT_MS_MAX;
  const open = new Map(requests.map((request) => [request.id, request.certname]));
  const ended: Run[] = [];
  while (open.size > 0 && Date.now() < deadline) {
    for (const [id, certname] of open) {
      const { runs } = await api.get<{ runs: Run[] }>(`/api/v1/runs?certname=${encodeURIComponent(certname)}&limit=10`);
      const run = runs.find((each) => each.request === id);
      if (!run || run.status === 'running') continue;
      open.delete(id);
      ended.push(run);
    }
    if (open.size > 0) await sleep(200);
  }
  return ended;
}

function counts(summary: Record<string, number> | null): string {
  if (!summary) return '';
  const shown = ['changed', 'failed', 'skipped', 'corrective', 'noop'].filter((name) => summary[name]);
  return `${summary.resources} resources${shown.map((name) => `, ${summary[name]} ${name === 'noop' ? 'would change' : name}`).join('')}`;
}
