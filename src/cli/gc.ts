import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';

export function gcCommand(): Command {
  return withConnection(new Command('gc'))
    .description('remove catalogs, code versions and content that nothing names any more; safe while everything runs')
    .option('--json', 'print JSON')
    .action(async (flags) => {
      const api = ApiClient.from(flags);
      const answer = await api.post<Record<string, unknown>>('/api/v1/collections');
      if (flags.json) process.stdout.write(`${JSON.stringify(answer)}\n`);
      else
        for (const [what, count] of Object.entries(answer))
          process.stdout.write(`${what.replaceAll('_', ' ')}: ${count}\n`);
      await api.close();
    });
}
