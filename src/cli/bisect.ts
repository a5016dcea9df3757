import { Command } from 'commander';
import { type ResourceChange, resourceLines } from './change-lines.ts';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { inputLines, type Why } from './input-lines.ts';
import { ago, short } from './table.ts';

interface Deployed {
  code_version: string;
  commit: string | null;
  ref: string;
  deployed_at: string;
  requested_by: string;
}

interface Bisection extends Why {
  resource: string;
  is_there: boolean;
  since: Deployed;
  before: Deployed | null;
  unknown: Deployed[];
  change: ResourceChange | null;
}

export function bisectCommand(): Command {
  return withConnection(new Command('bisect'))
    .description('which deploy first gave a node a resource as it is now; looks at kept catalogs, compiles nothing')
    .argument('<certname>')
    .argument('<resource>', 'as in Type[title]')
    .option('--json', 'print JSON')
    .addHelpText('after', "\nExample:\n  callboard bisect web1.example 'File[/etc/ntp.conf]'")
    .action(async (certname: string, resource: string, flags) => {
      const api = ApiClient.from(flags);
      try {
        const query = new URLSearchParams({ resource });
        const text = await api.text(`/api/v1/nodes/${encodeURIComponent(certname)}/bisection?${query}`);
        process.stdout.write(`${flags.json ? text : describe(certname, JSON.parse(text) as Bisection)}\n`);
      } finally {
        await api.close();
      }
    });
}

function describe(certname: string, found: Bisection): string {
  const { resource, is_there, since, before, unknown, change } = found;
  const lines = [
    `${pc.bold(`${resource} of ${certname}`)} is ${is_there ? 'as it is' : 'not there'} since ${deployText(since)}`,
  ];
  if (!before) return [...lines, 'No earlier deploy with a kept catalog has it otherwise.'].join('\n');
  lines.push(`The deploy before it with a kept catalog: ${deployText(before)}`);
  if (before.commit && since.commit && before.commit !== since.commit)
    lines.push(`It came with one of these commits: git log ${short(before.commit)}..${short(since.commit)}`);
  if (unknown.length > 0)
    lines.push(
      `${unknown.length} ${unknown.length === 1 ? 'deploy in between has' : 'deploys in between have'} no kept catalog of this node: ${unknown.map((each) => short(each.code_version)).join(', ')}`,
    );
  if (change) lines.push('', ...resourceLines(change));
  return [...lines, ...inputLines(found)].join('\n');
}

function deployText({ code_version, commit, ref, deployed_at, requested_by }: Deployed): string {
  return `code ${short(code_version)}, commit ${short(commit)} of ${ref}, deployed ${ago(deployed_at)} ago by ${requested_by}`;
}
