import { Command } from 'commander';
import { type ResourceChange, resourceLines } from './change-lines.ts';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { short } from './table.ts';

interface Side {
  catalog: string;
  code_version: string | null;
}

interface Diff {
  certname: string;
  environment: string;
  from: Side | null;
  to: Side;
  identical: boolean;
  position_only: boolean;
  counts: { added: number; removed: number; changed: number; position_only: number };
  resources: ResourceChange[];
  edges?: { added: string[]; removed: string[]; reordered: boolean };
  order_changed: boolean;
}

export function diffCommand(): Command {
  return withConnection(new Command('diff'))
    .description('what a release would change on a node: its released catalog against its candidate')
    .argument('<certname>')
    .option('--from <catalog>', 'released, candidate, none, or the first digits of a catalog', 'released')
    .option('--to <catalog>', 'the same', 'candidate')
    .option('--edges', 'also say which edges differ')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      '\nExample:\n  callboard diff web1.example\n\nExit codes: 0 nothing differs, 1 refused (as when the candidate did not compile), 3 something differs.',
    )
    .action(async (certname: string, flags) => {
      const api = ApiClient.from(flags);
      const query = new URLSearchParams({ from: flags.from, to: flags.to });
      const text = await api.text(`/api/v1/nodes/${encodeURIComponent(certname)}/diff?${query}`);
      const diff = JSON.parse(text) as Diff;
      process.stdout.write(flags.json ? `${text}\n` : `${describe(diff, flags.edges)}\n`);
      if (!diff.identical) process.exitCode = 3;
      await api.close();
    });
}

function describe(diff: Diff, edges: boolean): string {
  const side = (each: Side | null): string =>
    each ? `catalog ${short(each.catalog)} (code ${short(each.code_version)})` : 'nothing';
  const { added, removed, changed, position_only: moved } = diff.counts;
  const lines = [
    `${pc.bold(diff.certname)}: ${side(diff.from)} → ${side(diff.to)}`,
    diff.identical
      ? pc.green('nothing differs')
      : `${added} added, ${removed} removed, ${changed} changed${moved ? `, ${moved} only moved in the manifests` : ''}`,
  ];
  for (const each of diff.resources) if (!each.position_only) lines.push('', ...resourceLines(each));
  if (diff.order_changed) lines.push('resources are applied in another order');
  if (edges && diff.edges) {
    for (const edge of diff.edges.added) lines.push(pc.green(`+ edge ${edge}`));
    for (const edge of diff.edges.removed) lines.push(pc.red(`- edge ${edge}`));
  }
  return lines.join('\n');
}
