import { Command } from 'commander';
import { type ResourceChange, resourceLines } from './change-lines.ts';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { inputLines, type Why } from './input-lines.ts';
import { ago, short } from './table.ts';

interface Explanation {
  certname: string;
  environment: string;
  catalog: string;
  is_released: boolean;
  code: Code | null;
  compile: { trigger: string; finished_at: string; facts: string | null; enc_hash: string | null } | null;
  reads: Reads | null;
  resource?: Explained;
}

interface Code {
  code_version: string;
  commit?: string | null;
  ref?: string;
  deployed_at?: string;
  requested_by?: string;
}

interface Reads {
  files: string[];
  data: { key: string; from: string | null; files: { path: string; has_key: boolean }[] }[] | null;
  facts: { path: string; value?: unknown }[];
  outside: Record<string, string | null>;
  volatile: { reason: string; file: string | null; line: number | null }[];
}

interface Explained {
  reference: string;
  file: string | null;
  line: number | null;
  containers: string[];
  relations: { relation: string; resource: string }[];
  incoming: { relation: string; resource: string }[];
  parameters: Record<string, unknown>;
  plan: (Why & { change: ResourceChange | null; refreshed_because: string | null }) | null;
}

const FILES_MAX = 20;

export function explainCommand(): Command {
  return withConnection(new Command('explain'))
    .description("why a node's catalog is as it is: what it was made from, and where in it a resource comes from")
    .argument('<certname>')
    .argument('[resource]', 'as in Type[title]')
    .option('--candidate', 'of its candidate; without this of its released catalog')
    .option('--catalog <id>', 'of the catalog with these first digits')
    .option('--json', 'print JSON')
    .addHelpText('after', "\nExample:\n  callboard explain web1.example 'File[/etc/ntp.conf]'")
    .action(async (certname: string, resource: string | undefined, flags) => {
      const api = ApiClient.from(flags);
      try {
        const query = new URLSearchParams({ catalog: flags.catalog ?? (flags.candidate ? 'candidate' : 'released') });
        if (resource) query.set('resource', resource);
        const text = await api.text(`/api/v1/nodes/${encodeURIComponent(certname)}/explanation?${query}`);
        process.stdout.write(`${flags.json ? text : describe(JSON.parse(text) as Explanation)}\n`);
      } finally {
        await api.close();
      }
    });
}

function field(name: string, value: string): string {
  return `${pc.dim(name.padEnd(12))} ${value}`;
}

function describe(explanation: Explanation): string {
  const { certname, catalog, is_released, code, compile, reads, resource } = explanation;
  const lines = [
    `${pc.bold(certname)}: ${is_released ? 'released ' : ''}catalog ${short(catalog)}`,
    field('compiled', compile ? `${ago(compile.finished_at)} ago, because ${compile.trigger}` : 'not known any more'),
    field('code', code ? describeCode(code) : 'not known any more'),
  ];
  if (resource) return [...lines, ...describeResource(resource, reads)].join('\n');
  if (!reads) lines.push(field('read', 'not known: what the compile read was not recorded'));
  else lines.push(...describeReads(reads));
  return lines.join('\n');
}

function describeCode({ code_version, commit, ref, deployed_at, requested_by }: Code): string {
  const from = commit ? `, commit ${short(commit)} of ${ref}` : '';
  const by = deployed_at ? `, deployed ${ago(deployed_at)} ago by ${requested_by}` : '';
  return `${short(code_version)}${from}${by}`;
}

function describeReads({ facts, data, files, outside, volatile }: Reads): string[] {
  const found = data?.filter((each) => each.from !== null) ?? [];
  const lines = [
    ...listed(
      'facts',
      facts.map(({ path, value }) => (value === undefined ? path : `${path} = ${cut(JSON.stringify(value))}`)),
    ),
    ...(data === null ? [field('data', 'not known any more: the code version was collected')] : []),
    ...listed(
      'data',
      found.map(({ key, from, files: asked }) => {
        const others = asked.filter((each) => each.has_key && each.path !== from);
        return `${key} from ${from}${others.length > 0 ? ` (also in ${others.map((each) => each.path).join(', ')})` : ''}`;
      }),
    ),
    ...listed('files', files.slice(0, FILES_MAX)),
  ];
  if (files.length > FILES_MAX) lines.push(field('', `and ${files.length - FILES_MAX} more: see --json`));
  lines.push(...listed('outside', Object.keys(outside)));
  lines.push(
    ...listed(
      'volatile',
      volatile.map(({ reason, file, line }) => `${reason}${file ? ` (${file}:${line})` : ''}`),
    ),
  );
  return lines;
}

function describeResource(resource: Explained, reads: Reads | null): string[] {
  const { reference, file, line, containers, relations, incoming, parameters, plan } = resource;
  const lines = [
    '',
    pc.bold(reference),
    field('declared', file ? `${file}${line ? `:${line}` : ''}` : 'by Puppet, on no line'),
    field('in', containers.length > 0 ? containers.join(' → ') : 'nothing'),
    ...listed('relations', [
      ...relations.map((each) => `${each.relation} ${each.resource}`),
      ...incoming.map((each) => `${each.resource} has ${each.relation} ${reference}`),
    ]),
    ...listed(
      'parameters',
      Object.entries(parameters).map(([name, value]) => `${name} => ${cut(JSON.stringify(value))}`),
    ),
  ];
  const classes = containers.flatMap((each) => /^Class\[(.*)\]$/s.exec(each)?.[1]?.toLowerCase() ?? []);
  const data =
    reads?.data?.filter(({ key, from }) => from && classes.some((name) => key.startsWith(`${name}::`))) ?? [];
  lines.push(
    ...listed(
      'data',
      data.map(({ key, from }) => `${key} from ${from}`),
    ),
  );
  if (!plan) return lines;
  if (!plan.change && !plan.refreshed_because) return [...lines, field('plan', 'the candidate has it as it is')];
  lines.push('', pc.bold('What the candidate would change'));
  if (plan.change) lines.push(...resourceLines(plan.change));
  if (plan.refreshed_because) lines.push(pc.cyan(`↻ refreshed because of ${plan.refreshed_because}`));
  return [...lines, ...inputLines(plan)];
}

/** A field of several lines; none where there is nothing. */
function listed(name: string, values: string[]): string[] {
  return values.map((value, index) => field(index === 0 ? name : '', value));
}

function cut(text: string): string {
  return text.length > 100 ? `${text.slice(0, 99)}…` : text;
}
