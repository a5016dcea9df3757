/**
 * The loop as an operator feels it: seconds from a push (deploy asked for) to the node having applied it, under the policy
 * code: auto; and how long an event of a 500-resource run takes to a watcher. `node bench/loop/loop.ts`
 */
import { keepResult } from '../results.ts';
import { nodeOf, until } from './stage.ts';
import { manyFiles, openStage, watchRun } from './watched-run.ts';

const PUSHES = 7;

const stage = await openStage('# nothing yet\n');
try {
  await stage.commit(manyFiles(500, `${stage.folder}/managed`, 'x'));
  await stage.deploy();
  const { events, latenciesMs } = await watchRun(stage, 500);
  const percentile = (share: number): number => latenciesMs[Math.ceil(latenciesMs.length * share) - 1]!;
  process.stdout.write(
    `${events} events: p50 ${percentile(0.5)} ms, p99 ${percentile(0.99)} ms, worst ${latenciesMs.at(-1)} ms\n`,
  );

  await stage.api.put('/api/v1/environments/production', { code_policy: 'auto' });
  const seconds: number[] = [];
  for (let push = 1; push <= PUSHES; push++) {
    const before = (await nodeOf(stage)).run?.id;
    await stage.commit(
      `file { '${stage.folder}/managed': ensure => directory }\nfile { '${stage.folder}/managed/pushed': content => 'push ${push}' }\n`,
    );
    const pushedAt = performance.now();
    await stage.deploy();
    const run = await until(
      'the run',
      async () => {
        const { run } = await nodeOf(stage);
        return run && run.id !== before && run.status !== 'running' ? run : undefined;
      },
      10,
    );
    if (run.status !== 'changed') throw new Error(`push ${push}: the run is ${run.status}`);
    seconds.push((performance.now() - pushedAt) / 1000);
    process.stdout.write(`push ${push}: applied after ${seconds.at(-1)!.toFixed(2)} s\n`);
  }
  seconds.sort((a, b) => a - b);
  await keepResult({
    bench: 'loop',
    figures: [
      {
        name: 'event to watcher, p99',
        unit: 'ms',
        ours: percentile(0.99),
        aim: 250,
        aimIsMost: true,
        note: `${events} events of a run of 500 resources; p50 ${percentile(0.5)} ms`,
      },
      {
        name: 'push to applied, median',
        unit: 's',
        ours: seconds[Math.floor(PUSHES / 2)]!,
        note: `${PUSHES} pushes of one file, one node: git fetch, code version, Ruby interpreter, compile, release, wake-up, run, report; best ${seconds[0]!.toFixed(2)} s`,
      },
    ],
  });
} finally {
  await stage.stop();
}
