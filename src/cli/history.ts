import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import { ago, short, table } from './table.ts';

interface PastCatalog {
  moved_at: string;
  cause: string;
  requested_by: string | null;
  catalog: string;
  code_version: string;
  commit: string | null;
  trigger: string | null;
  difference: { added: number; removed: number; changed: number } | null;
}

export function historyCommand(): Command {
  return withConnection(new Command('history'))
    .description('the catalogs a node was given, the last first: when, by whom, and what each changed')
    .argument('<certname>')
    .option('--limit <count>', 'how many at most', '20')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExample:\n  callboard history web1.example')
    .action(async (certname: string, flags) => {
      const api = ApiClient.from(flags);
      try {
        const query = new URLSearchParams({ limit: flags.limit });
        const { catalogs } = await api.get<{ catalogs: PastCatalog[] }>(
          `/api/v1/nodes/${encodeURIComponent(certname)}/catalogs?${query}`,
        );
        const lines = catalogs.map((each) => [
          `${ago(each.moved_at)} ago`,
          each.cause,
          each.requested_by ?? 'policy',
          short(each.catalog),
          short(each.code_version),
          short(each.commit),
          differenceText(each.difference),
          each.trigger ?? '',
        ]);
        const headings = ['WHEN', 'CAUSE', 'BY', 'CATALOG', 'CODE', 'COMMIT', 'RESOURCES', 'COMPILED BECAUSE'];
        process.stdout.write(flags.json ? `${JSON.stringify(catalogs)}\n` : `${table(headings, lines)}\n`);
      } finally {
        await api.close();
      }
    });
}

function differenceText(difference: PastCatalog['difference']): string {
  if (!difference) return 'not kept';
  const { added, removed, changed } = difference;
  return added + removed + changed === 0 ? 'same' : `+${added} -${removed} ~${changed}`;
}
