import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { short } from './table.ts';

interface Side {
  catalog: string;
  code_version: string | null;
}

interface ParameterChange {
  name: string;
  change: 'added' | 'removed' | 'changed';
  sensitive: boolean;
  from?: unknown;
  to?: unknown;
  diff?: string;
}

interface ContentSide {
  kind: string;
  size?: number;
  hash?: string;
  target?: string;
}

interface ContentChange {
  path: string;
  change: 'added' | 'removed' | 'changed';
  from?: ContentSide;
  to?: ContentSide;
  diff?: string;
}

interface ResourceChange {
  resource: string;
  change: 'added' | 'removed' | 'changed';
  position_only: boolean;
  parameters: ParameterChange[];
  contents: ContentChange[];
  tags?: { added: string[]; removed: string[] };
  other: string[];
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

const MARK = { added: '+', removed: '-', changed: '~' } as const;
const COLOUR = { added: pc.green, removed: pc.red, changed: pc.yellow } as const;

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
  for (const each of diff.resources) if (!each.position_only) lines.push(...resource(each));
  if (diff.order_changed) lines.push('resources are applied in another order');
  if (edges && diff.edges) {
    for (const edge of diff.edges.added) lines.push(pc.green(`+ edge ${edge}`));
    for (const edge of diff.edges.removed) lines.push(pc.red(`- edge ${edge}`));
  }
  return lines.join('\n');
}

function resource(each: ResourceChange): string[] {
  const lines = ['', COLOUR[each.change](`${MARK[each.change]} ${each.resource}`)];
  for (const parameter of each.parameters) lines.push(...parameterLines(parameter));
  for (const content of each.contents) lines.push(...contentLines(content));
  if (each.tags)
    lines.push(
      `    tags: ${[...each.tags.added.map((tag) => `+${tag}`), ...each.tags.removed.map((tag) => `-${tag}`)].join(' ')}`,
    );
  for (const other of each.other) lines.push(`    ${other} differs`);
  return lines;
}

function parameterLines(parameter: ParameterChange): string[] {
  const { name, change } = parameter;
  if (parameter.diff) return [`    ${name}:`, ...unified(parameter.diff)];
  const value = (of: unknown): string => (of === undefined && parameter.sensitive ? '[sensitive]' : JSON.stringify(of));
  if (change === 'added') return [pc.green(`    ${name} => ${value(parameter.to)}`)];
  if (change === 'removed') return [pc.red(`    ${name} => ${value(parameter.from)}`)];
  return [`    ${name}: ${pc.red(value(parameter.from))} → ${pc.green(value(parameter.to))}`];
}

function contentLines(content: ContentChange): string[] {
  if (content.diff) return [`    content of ${content.path}:`, ...unified(content.diff)];
  const side = (of: ContentSide | undefined): string =>
    of === undefined
      ? 'absent'
      : of.kind === 'link'
        ? `link to ${of.target}`
        : of.kind === 'sensitive'
          ? '[sensitive]'
          : [of.kind, of.size === undefined ? '' : `${of.size} bytes`, of.hash ? short(of.hash) : '']
              .filter(Boolean)
              .join(' ');
  return [`    content of ${content.path}: ${side(content.from)} → ${side(content.to)}`];
}

function unified(text: string): string[] {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => {
      const shown = `      ${line}`;
      if (line.startsWith('+')) return pc.green(shown);
      if (line.startsWith('-')) return pc.red(shown);
      return line.startsWith('@@') ? pc.cyan(shown) : shown;
    });
}
