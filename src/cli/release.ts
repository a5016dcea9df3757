import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { short, table } from './table.ts';

interface Moved {
  release: string;
  code_version?: string | null;
  moved: number;
  unchanged: number;
  skipped: { certname: string; reason: string }[];
  notes?: string[];
}

const EXIT_CODES =
  '\nExit codes: 0 every chosen node has it, 1 refused, 3 some nodes were skipped (each with its reason).';

/** The nodes a command is about: `--nodes a,b` or `--all`, never both, never neither. */
function chosen(flags: { nodes?: string; all?: boolean }, command: Command): string[] | 'all' {
  if (Boolean(flags.nodes) === Boolean(flags.all)) command.error('error: give either --nodes a,b or --all');
  return flags.all ? 'all' : flags.nodes!.split(',').map((name) => name.trim());
}

function tell(action: string, answer: Moved, json: boolean): void {
  if (json) process.stdout.write(`${JSON.stringify(answer)}\n`);
  else {
    process.stdout.write(
      `${action}: ${pc.bold(String(answer.moved))} moved, ${answer.unchanged} unchanged, ${answer.skipped.length} skipped\n`,
    );
    for (const note of answer.notes ?? []) process.stdout.write(`${note}\n`);
    if (answer.skipped.length > 0)
      process.stdout.write(
        `${table(
          ['SKIPPED', 'BECAUSE'],
          answer.skipped.map((skip) => [skip.certname, skip.reason]),
        )}\n`,
      );
  }
  if (answer.skipped.length > 0) process.exitCode = 3;
}

export function releaseCommand(): Command {
  const command = new Command('release');
  return withConnection(command)
    .description('let nodes run a code version: moves their pointers to the catalogs compiled under it')
    .argument('<environment>')
    .option('--code <version>', 'the first digits of a code version; default: the newest')
    .option('--nodes <certnames>', 'these nodes, separated by commas')
    .option('--all', 'every node of the environment, and those that join later')
    .option('--json', 'print JSON')
    .addHelpText('after', `\nExample:\n  callboard release production --nodes web1.example,web2.example\n${EXIT_CODES}`)
    .action(async (environment: string, flags) => {
      const api = ApiClient.from(flags);
      const nodes = chosen(flags, command);
      const answer = await api.post<Moved>('/api/v1/releases', {
        environment,
        ...(flags.code ? { code_version: flags.code } : {}),
        nodes,
      });
      tell(`Released ${short(answer.code_version ?? flags.code)}`, answer, flags.json);
      await api.close();
    });
}

export function rollbackCommand(): Command {
  const command = new Command('rollback');
  return withConnection(command)
    .description('take nodes back to the code version and catalog they had before their last release')
    .argument('<environment>')
    .option('--nodes <certnames>', 'these nodes, separated by commas')
    .option('--all', 'every node of the environment')
    .option('--json', 'print JSON')
    .addHelpText('after', `\nExample:\n  callboard rollback production --all\n${EXIT_CODES}`)
    .action(async (environment: string, flags) => {
      const api = ApiClient.from(flags);
      const nodes = chosen(flags, command);
      tell('Rolled back', await api.post<Moved>('/api/v1/rollbacks', { environment, nodes }), flags.json);
      await api.close();
    });
}

export function pinCommand(): Command {
  return withConnection(new Command('pin'))
    .description('hold a node on one exact catalog until it is unpinned')
    .argument('<certname>')
    .argument('[catalog]', "the catalog's id; default: the one that is released now")
    .addHelpText('after', '\nExample:\n  callboard pin db1.example\n  callboard unpin db1.example')
    .action(async (certname: string, catalog: string | undefined, flags) => {
      const api = ApiClient.from(flags);
      const id =
        catalog ?? (await api.get<{ released_catalog: string | null }>(`/api/v1/nodes/${certname}`)).released_catalog;
      if (!id) throw new Error(`no catalog is released to ${certname}: name one`);
      await api.post('/api/v1/pins', { certname, catalog: id });
      process.stdout.write(`Pinned ${certname} to catalog ${short(id)}\n`);
      await api.close();
    });
}

export function unpinCommand(): Command {
  return withConnection(new Command('unpin'))
    .description('let releases and policies move a pinned node again')
    .argument('<certname>')
    .action(async (certname: string, flags) => {
      const api = ApiClient.from(flags);
      await api.delete(`/api/v1/pins/${encodeURIComponent(certname)}`);
      process.stdout.write(`Unpinned ${certname}\n`);
      await api.close();
    });
}
