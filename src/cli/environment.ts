import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import { short, table } from './table.ts';

interface Environment {
  name: string;
  code_policy: string;
  facts_policy: string;
  run_policy: string;
  enc_command: string | null;
  enc_interval_minutes: number;
  code_version: string | null;
  released_code_version: string | null;
}

export function environmentCommand(): Command {
  const environment = new Command('environment').description('environments and their policies');

  withConnection(environment.command('list'))
    .description('every environment with its policies')
    .option('--json', 'print JSON')
    .action(async (flags) => {
      const api = ApiClient.from(flags);
      const { environments } = await api.get<{ environments: Environment[] }>('/api/v1/environments');
      const lines = environments.map((one) => [
        one.name,
        one.code_policy,
        one.facts_policy,
        one.run_policy,
        short(one.code_version),
        short(one.released_code_version),
        one.enc_command
          ? `${one.enc_command} (${one.enc_interval_minutes ? `every ${one.enc_interval_minutes}m` : 'on demand'})`
          : '-',
      ]);
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(environments)}\n`
          : `${table(['ENVIRONMENT', 'CODE', 'FACTS', 'RUN', 'NEWEST', 'RELEASED', 'ENC'], lines)}\n`,
      );
      await api.close();
    });

  withConnection(environment.command('set'))
    .description('make an environment, or change its policies')
    .argument('<environment>')
    .option('--code <held|auto>', 'whether new code waits for a release (held) or flows through (auto)')
    .option('--facts <auto|held>', 'whether catalogs that changed by facts flow through')
    .option('--run <do|noop>', 'whether nodes apply their catalog or only say what they would do')
    .option('--enc <command>', 'absolute path of an external node classifier on the server, or "none"')
    .option('--recompile <minutes>', 'volatile catalogs are compiled again at least this often')
    .option('--audit-share <share>', 'of skipped compiles, compile this share all the same and compare: 0 to 1')
    .option('--enc-interval <minutes>', 'how often it is asked again; 0: only on demand and when a node is compiled')
    .addHelpText('after', '\nExample:\n  callboard environment set production --run noop')
    .action(async (name: string, flags) => {
      const api = ApiClient.from(flags);
      await api.put(`/api/v1/environments/${encodeURIComponent(name)}`, {
        ...(flags.code ? { code_policy: flags.code } : {}),
        ...(flags.facts ? { facts_policy: flags.facts } : {}),
        ...(flags.run ? { run_policy: flags.run } : {}),
        ...(flags.enc ? { enc_command: flags.enc === 'none' ? null : flags.enc } : {}),
        ...(flags.recompile === undefined ? {} : { recompile_minutes: Number(flags.recompile) }),
        ...(flags.auditShare === undefined ? {} : { audit_share: Number(flags.auditShare) }),
        ...(flags.encInterval === undefined ? {} : { enc_interval_minutes: Number(flags.encInterval) }),
      });
      process.stdout.write(`Set ${name}\n`);
      await api.close();
    });

  return environment;
}
