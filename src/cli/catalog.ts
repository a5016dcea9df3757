import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { short, table } from './table.ts';

interface Resource {
  type: string;
  title: string;
  file?: string;
  line?: number;
  parameters?: Record<string, unknown>;
}

interface Catalog {
  name: string;
  environment: string;
  version: string;
  classes?: string[];
  resources: Resource[];
  edges: { source: string; target: string }[];
}

export function catalogCommand(): Command {
  const catalog = new Command('catalog').description('catalogs by their ids');
  withConnection(catalog.command('show'))
    .description('one catalog, its secrets left out')
    .argument('<id>', 'the first digits will do')
    .option('--resource <resource>', 'only this one, as in Type[title], with its parameters')
    .option('--json', 'print the document (of one resource with --resource)')
    .addHelpText('after', "\nExample:\n  callboard catalog show 8db418067d --resource 'Service[ntp]'")
    .action(async (id: string, flags) => {
      const api = ApiClient.from(flags);
      try {
        const text = await api.text(`/api/v1/catalogs/${encodeURIComponent(id)}?redacted=true`);
        const found = JSON.parse(text) as Catalog;
        if (flags.resource) showResource(found, flags.resource, flags.json);
        else process.stdout.write(`${flags.json ? text : describe(found)}\n`);
      } finally {
        await api.close();
      }
    });
  return catalog;
}

function nameOf({ type, title }: Resource): string {
  return `${type}[${title}]`;
}

function placeOf({ file, line }: Resource): string {
  return file ? `${file}${line ? `:${line}` : ''}` : '';
}

function showResource(catalog: Catalog, name: string, json: boolean): void {
  const resource = catalog.resources.find((each) => nameOf(each) === name);
  if (!resource) throw new Error(`catalog ${short(catalog.version)} has no resource ${name}`);
  const lines = [
    `${pc.bold(nameOf(resource))} ${pc.dim(placeOf(resource))}`,
    ...Object.entries(resource.parameters ?? {}).map(([key, value]) => `  ${key} => ${JSON.stringify(value)}`),
  ];
  process.stdout.write(`${json ? JSON.stringify(resource) : lines.join('\n')}\n`);
}

function describe(catalog: Catalog): string {
  const { name, environment, version, resources, edges, classes = [] } = catalog;
  return [
    `${pc.bold(`catalog ${short(version)}`)} of ${name} in ${environment}: ${resources.length} resources, ${edges.length} edges`,
    `${pc.dim('classes')} ${classes.join(', ')}`,
    table(
      ['RESOURCE', 'DECLARED'],
      resources.map((each) => [nameOf(each), placeOf(each)]),
    ),
  ].join('\n');
}
