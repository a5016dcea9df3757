import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import pc from './colours.ts';
import { type RunEventView, runEventLine } from './event-line.ts';
import { short } from './table.ts';

export function watchCommand(): Command {
  return withConnection(new Command('watch'))
    .description('follow the fleet live: run events, compiles, deploys, releases')
    .option('--node <certname>', 'only this node')
    .option('--run <id>', 'only this run')
    .option('--all', 'also resources that are as they should be')
    .option('--json', 'print each event as one line of JSON')
    .addHelpText('after', '\nExample:\n  callboard watch --node web1.example')
    .action(async (flags) => {
      const api = ApiClient.from(flags);
      const stop = new AbortController();
      process.on('SIGINT', () => stop.abort());
      const query = new URLSearchParams({
        ...(flags.node ? { certname: flags.node } : {}),
        ...(flags.run ? { run: flags.run } : {}),
      });
      try {
        for await (const { event, data } of api.events(`/api/v1/watch?${query}`, stop.signal)) {
          if (flags.json) process.stdout.write(`{"event":${JSON.stringify(event)},"data":${data}}\n`);
          else {
            const line = describe(event, JSON.parse(data), !flags.all);
            if (line) process.stdout.write(`${line}\n`);
          }
        }
        throw new Error('the server ended the stream');
      } catch (error) {
        if (!stop.signal.aborted) throw error;
      } finally {
        await api.close();
      }
    });
}

type Row = Record<string, string | null> & { error?: { message: string } | string | null; moved?: number };

function describe(event: string, data: unknown, quietResources: boolean): string | undefined {
  const time = pc.dim(new Date().toISOString().slice(11, 23));
  if (event === 'run_event') {
    const view = data as RunEventView;
    const line = runEventLine(view, { quietResources });
    return line && `${pc.dim(view.at.slice(11, 23))} ${pc.cyan(view.certname ?? '')} ${line}`;
  }
  const row = data as Row;
  if (event === 'compile') {
    const outcome = row.catalog
      ? `catalog ${short(row.catalog)}`
      : pc.red(`failed: ${typeof row.error === 'object' ? row.error?.message : row.error}`);
    return `${time} ${pc.cyan(row.certname ?? '')} compiled under code ${short(row.code_version)} (${row.trigger}): ${outcome}`;
  }
  if (event === 'deploy') {
    return `${time} ${pc.cyan(row.environment ?? '')} deploy ${row.state}: ${row.error ? pc.red(String(row.error)) : `code ${short(row.code_version)}`}`;
  }
  if (event === 'release')
    return `${time} ${pc.cyan(row.environment ?? '')} ${row.kind} by ${row.requested_by}: ${row.moved} nodes moved to code ${short(row.code_version)}`;
  return undefined;
}
