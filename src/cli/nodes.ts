import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { nodeCommand } from './node.ts';
import { statusColour } from './run-status.ts';
import { ago, short, table } from './table.ts';

interface NodeRow {
  certname: string;
  environment: string;
  pinned: boolean;
  status: string | null;
  last_run: string | null;
  last_run_at: string | null;
  facts_at: string | null;
  released_catalog: string | null;
  released_code_version: string | null;
  released_at: string | null;
  candidate_catalog: string | null;
  candidate_code_version: string | null;
  candidate_differs: boolean;
  compile_failed: boolean;
}

interface NodeDetail extends NodeRow {
  trusted_extensions: Record<string, string>;
  facts: string | null;
  last_compile: {
    trigger: string;
    code_version: string;
    catalog: string | null;
    error: { message: string; file: string | null; line: number | null } | null;
    warnings: { level: string; message: string; file: string | null; line: number | null }[];
    finished_at: string;
  } | null;
  run: { id: string; status: string; noop: boolean; finished_at: string | null } | null;
}

/** `callboard node` alone runs the daemon; the others are what operators ask of nodes. */
export function nodesCommand(): Command {
  const node = new Command('node').description('the node daemon, and what is known of nodes');
  node.addCommand(nodeCommand().name('daemon'), { isDefault: true });

  withConnection(node.command('list'))
    .description('nodes with their last run, released catalog and candidate')
    .option('--environment <name>', 'only of this environment')
    .option('--status <status>', 'only those whose last run is running, unchanged, changed, failed, or never')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExample:\n  callboard node list --environment production --status failed')
    .action(async (flags) => {
      const api = ApiClient.from(flags);
      const nodes: NodeRow[] = [];
      let after: string | null = null;
      do {
        const query = new URLSearchParams({
          limit: '1000',
          ...(flags.environment ? { environment: flags.environment } : {}),
          ...(flags.status ? { status: flags.status } : {}),
          ...(after ? { after } : {}),
        });
        const page: { nodes: NodeRow[]; next: string | null } = await api.get(`/api/v1/nodes?${query}`);
        nodes.push(...page.nodes);
        after = page.next;
      } while (after);
      if (flags.json) process.stdout.write(`${JSON.stringify(nodes)}\n`);
      else {
        const lines = nodes.map((each) => [
          each.certname,
          each.environment,
          statusColour(each.status ?? 'never'),
          ago(each.last_run_at),
          ago(each.facts_at),
          short(each.released_catalog),
          each.compile_failed
            ? pc.red('compile failed')
            : each.candidate_differs
              ? pc.yellow(short(each.candidate_catalog))
              : 'same',
          each.pinned ? 'pinned' : '',
        ]);
        process.stdout.write(
          `${table(['NODE', 'ENVIRONMENT', 'LAST RUN', 'AGO', 'FACTS', 'RELEASED', 'CANDIDATE', ''], lines)}\n`,
        );
      }
      await api.close();
    });

  withConnection(node.command('show'))
    .description('one node: facts, catalogs, last compile, last run')
    .argument('<certname>')
    .option('--json', 'print JSON')
    .action(async (certname: string, flags) => {
      const api = ApiClient.from(flags);
      const detail = await api.get<NodeDetail>(`/api/v1/nodes/${encodeURIComponent(certname)}`);
      process.stdout.write(flags.json ? `${JSON.stringify(detail)}\n` : `${describe(detail)}\n`);
      await api.close();
    });

  withConnection(node.command('facts'))
    .description("a node's facts as it last submitted them")
    .argument('<certname>')
    .argument('[fact]', 'only this one, as a dotted path: os.family')
    .option('--json', 'print the whole document as it is stored, byte for byte')
    .action(async (certname: string, fact: string | undefined, flags) => {
      const api = ApiClient.from(flags);
      const text = await api.text(`/api/v1/nodes/${encodeURIComponent(certname)}/facts`);
      if (flags.json && !fact) process.stdout.write(`${text}\n`);
      else {
        let value: unknown = JSON.parse(text);
        for (const key of fact?.split('.') ?? []) value = (value as Record<string, unknown> | undefined)?.[key];
        if (value === undefined) throw new Error(`${certname} has no fact ${fact}`);
        process.stdout.write(`${JSON.stringify(value, null, flags.json ? 0 : 2)}\n`);
      }
      await api.close();
    });

  withConnection(node.command('classify'))
    .description('have the ENC asked again now; nodes whose answer differs are compiled')
    .argument('[certnames...]')
    .option('--environment <name>', 'the nodes of this environment')
    .option('--all', 'every node')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExample:\n  callboard node classify web1.example web2.example')
    .action(async (certnames: string[], flags, command: Command) => {
      if (Number(certnames.length > 0) + Number(Boolean(flags.environment)) + Number(Boolean(flags.all)) !== 1)
        command.error('error: give either certnames, --environment or --all');
      const api = ApiClient.from(flags);
      const answer = await api.post<{ nodes: number; left_out: string[] }>('/api/v1/enc/refresh', {
        ...(certnames.length > 0 ? { certnames } : {}),
        ...(flags.environment ? { environment: flags.environment } : {}),
      });
      if (flags.json) process.stdout.write(`${JSON.stringify(answer)}\n`);
      else {
        process.stdout.write(`The ENC is asked about ${answer.nodes} node${answer.nodes === 1 ? '' : 's'}\n`);
        for (const name of answer.left_out)
          process.stdout.write(`${pc.yellow(name)} is left out: there is no such node, or it has no facts or no ENC\n`);
      }
      await api.close();
    });

  return node;
}

function describe(node: NodeDetail): string {
  const field = (name: string, value: string): string => `${pc.dim(name.padEnd(12))} ${value}`;
  const lines = [
    pc.bold(node.certname) + (node.pinned ? pc.yellow('  pinned') : ''),
    field('environment', node.environment),
    field('facts', node.facts ? `${short(node.facts)}, ${ago(node.facts_at)} ago` : 'none yet'),
    field(
      'released',
      node.released_catalog
        ? `catalog ${short(node.released_catalog)} under code ${short(node.released_code_version)}, ${ago(node.released_at)} ago`
        : 'nothing yet',
    ),
    field(
      'candidate',
      node.compile_failed
        ? `${pc.red('none: the compile failed')} under code ${short(node.candidate_code_version)}`
        : node.candidate_catalog
          ? `catalog ${short(node.candidate_catalog)} under code ${short(node.candidate_code_version)}${node.candidate_differs ? '' : ', the same as released'}`
          : 'not compiled yet',
    ),
  ];
  const compile = node.last_compile;
  if (compile) {
    lines.push(field('compile', `${ago(compile.finished_at)} ago, because ${compile.trigger}`));
    if (compile.error) lines.push(field('', pc.red(`${compile.error.message}${placeOf(compile.error)}`)));
    for (const warning of compile.warnings.slice(0, 5))
      lines.push(field('', pc.yellow(`${warning.level}: ${warning.message}${placeOf(warning)}`)));
  }
  if (node.run)
    lines.push(
      field(
        'run',
        `${statusColour(node.run.status)}${node.run.noop ? ' (noop)' : ''}${node.run.finished_at ? `, ${ago(node.run.finished_at)} ago` : ''}, ${node.run.id}`,
      ),
    );
  const extensions = Object.entries(node.trusted_extensions);
  if (extensions.length > 0)
    lines.push(field('trusted', extensions.map(([name, value]) => `${name}=${value}`).join(' ')));
  return lines.join('\n');
}

function placeOf({ file, line }: { file: string | null; line: number | null }): string {
  return file ? ` (${file}${line ? `:${line}` : ''})` : '';
}
