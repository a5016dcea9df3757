import { Command } from 'commander';
import { ApiClient, ApiError, withConnection } from './client.ts';
import { type Deploy, follow } from './code.ts';
import pc from './colours.ts';
import {
  type Failure,
  type Group,
  type Plan,
  type PlanHead,
  type Progress,
  planText,
  type Summary,
} from './plan-lines.ts';
import { planMarkdown } from './plan-markdown.ts';
import { packWorkingTree } from './working-tree.ts';

interface Flags {
  server?: string;
  token?: string;
  ca?: string;
  code?: string;
  where: string[];
  local?: string;
  edges?: boolean;
  wait: string;
  json?: boolean;
  markdown?: boolean;
}

const EXIT_CODES =
  '\nExit codes: 0 no node changes, 1 refused or no plan, 3 nodes change, 4 a node does not compile, or did not in time.';

export function planCommand(): Command {
  const command = new Command('plan');
  return withConnection(command)
    .description('what a code version would change on every node, before any node runs it: nodes by identical change')
    .argument('<environment>')
    .option('--code <version>', 'the first digits of a code version; default: the newest')
    .option('--local <dir>', 'of this git working tree as it is, pushed or not')
    .option(
      '--where <condition>',
      'only nodes that fit: certname=web* or facts.os.family=Debian, also with !=; several must all fit',
      (condition: string, before: string[]) => [...before, condition],
      [] as string[],
    )
    .option('--edges', 'also say which edges differ')
    .option('--wait <seconds>', 'how long to wait for compiles', '1800')
    .option('--json', 'print one JSON document')
    .option('--markdown', "print Markdown that fits a pull request's comment")
    .addHelpText(
      'after',
      `\nExamples:\n  callboard plan production\n  callboard plan production --where 'facts.os.family=Debian' --where 'certname=web*'\n  callboard plan production --local . --markdown > plan.md\n${EXIT_CODES}`,
    )
    .action(async (environment: string, flags: Flags) => {
      if (flags.json && flags.markdown) command.error('error: give --json or --markdown, not both');
      if (flags.local !== undefined && flags.code) command.error('error: give --local or --code, not both');
      const api = ApiClient.from(flags);
      try {
        const code = flags.local === undefined ? flags.code : await tryOut(api, environment, flags.local);
        const plan = await askPlan(api, environment, { ...flags, ...(code ? { code } : {}) });
        const text = flags.json ? plan.document : flags.markdown ? planMarkdown(plan) : planText(plan);
        process.stdout.write(`${text.trimEnd()}\n`);
        process.exitCode = exitCode(plan.summary);
      } finally {
        await api.close();
      }
    });
}

function exitCode({ failed, not_compiled, changed }: Summary): number {
  if (failed + not_compiled > 0) return 4;
  return changed > 0 ? 3 : 0;
}

/** Uploads the working tree and follows the deploy to its end; the code version. */
async function tryOut(api: ApiClient, environment: string, directory: string): Promise<string> {
  await using packed = await packWorkingTree(directory);
  const { id } = await api.upload<{ id: string }>(
    `/api/v1/environments/${encodeURIComponent(environment)}/trials`,
    packed.bundle,
  );
  let log = '';
  const deploy: Deploy = await follow(api, id, (text) => {
    log += text;
  });
  if (deploy.state !== 'done' || !deploy.code_version) {
    process.stderr.write(pc.dim(log));
    throw new Error(`The working tree became no code version: ${deploy.error}`);
  }
  return deploy.code_version;
}

/** The plan, and the document that `--json` prints: the same lines put together as they came, so that numbers stay as they are. */
async function askPlan(api: ApiClient, environment: string, flags: Flags): Promise<Plan & { document: string }> {
  const query = new URLSearchParams({ edges: String(flags.edges ?? false), wait: flags.wait });
  if (flags.code) query.set('code', flags.code);
  for (const condition of flags.where) query.append('where', condition);
  const bar = progressBar();
  const heads: string[] = [];
  const groups: string[] = [];
  const failures: string[] = [];
  const missing: string[] = [];
  const summaries: string[] = [];
  const lists = new Map(
    Object.entries({ plan: heads, group: groups, failure: failures, not_compiled: missing, summary: summaries }),
  );
  try {
    for await (const line of api.lines(`/api/v1/plans/${encodeURIComponent(environment)}?${query}`)) {
      const [, kind, value] = /^\{"(\w+)":(.*)\}$/s.exec(line) ?? [];
      if (kind === undefined || value === undefined)
        throw new Error(`the plan has a line that is none: ${line.slice(0, 100)}`);
      if (kind === 'progress') bar.show(JSON.parse(value) as Progress);
      else if (kind === 'error') throw new ApiError(500, JSON.parse(value));
      else lists.get(kind)?.push(value);
    }
  } finally {
    bar.clear();
  }
  const [head, summary] = [heads[0], summaries[0]];
  if (!head || !summary) throw new Error('the server ended the plan before it was whole; ask again');
  const notCompiled = missing.flatMap((each) => (JSON.parse(each) as { certnames: string[] }).certnames);
  return {
    plan: JSON.parse(head) as PlanHead,
    groups: groups.map((each) => JSON.parse(each) as Group),
    failures: failures.map((each) => JSON.parse(each) as Failure),
    not_compiled: notCompiled,
    summary: JSON.parse(summary) as Summary,
    document: `{"plan":${head},"groups":[${groups}],"failures":[${failures}],"not_compiled":${JSON.stringify(notCompiled)},"summary":${summary}}`,
  };
}

const BAR_WIDTH = 30;

/** On stderr, and only where somebody looks. */
function progressBar(): { show(progress: Progress): void; clear(): void } {
  if (!process.stderr.isTTY) return { show: () => {}, clear: () => {} };
  return {
    show({ stage, total, done, seconds_left: left }) {
      const full = total === 0 ? BAR_WIDTH : Math.round((done / total) * BAR_WIDTH);
      const bar = '█'.repeat(full) + '░'.repeat(BAR_WIDTH - full);
      const rest = left === null || left === 0 ? '' : `, ${duration(left)} left`;
      process.stderr.write(
        `\r\x1b[K${bar} ${done} of ${total} ${stage === 'compiling' ? 'compiled' : 'compared'}${rest}`,
      );
    },
    clear() {
      process.stderr.write('\r\x1b[K');
    },
  };
}

function duration(seconds: number): string {
  return seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}
