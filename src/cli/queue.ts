import { Command } from 'commander';
import { ApiClient, withConnection } from './client.ts';
import { short, table } from './table.ts';

interface Queue {
  waiting: number;
  running: number;
  workers: number;
  seconds_left: number | null;
  compiles: { environment: string; code_version: string; priority: number; waiting: number; running: number }[];
}

export function queueCommand(): Command {
  return withConnection(new Command('queue'))
    .description('compiles that wait or run, and when they will be done')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExample:\n  callboard queue')
    .action(async (flags) => {
      const api = ApiClient.from(flags);
      const queue = await api.get<Queue>('/api/v1/compiles/queue');
      process.stdout.write(flags.json ? `${JSON.stringify(queue)}\n` : `${text(queue)}\n`);
      await api.close();
    });
}

function text(queue: Queue): string {
  if (queue.waiting + queue.running === 0) return 'No compile waits or runs';
  const left =
    queue.seconds_left === null ? 'nobody knows how long yet' : `done in some ${Math.ceil(queue.seconds_left)} s`;
  const lines = queue.compiles.map((each) => [
    each.environment,
    short(each.code_version),
    String(each.waiting),
    String(each.running),
  ]);
  return `${queue.waiting} compiles wait and ${queue.running} run, ${queue.workers} at once: ${left}\n${table(['ENVIRONMENT', 'CODE', 'WAITING', 'RUNNING'], lines)}`;
}
