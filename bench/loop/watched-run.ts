/** One run of many resources, watched: how long after each event happened on the node a watcher has it. */
import { CERTNAME, nodeOf, openStage, type Stage, until } from './stage.ts';

export interface WatchedRun {
  events: number;
  /** Milliseconds from the event's own time on the node to its arrival at the watcher, sorted. */
  latenciesMs: number[];
}

export function manyFiles(count: number, folder: string, content: string): string {
  return `$root = '${folder}'
file { $root: ensure => directory }
Integer[1, ${count}].each |$n| { file { "\${root}/file-\${n}": content => "${content}" } }
`;
}

/** Releases the candidate, follows the run it brings about. */
export async function watchRun(stage: Stage, resources: number): Promise<WatchedRun> {
  const stop = new AbortController();
  const latenciesMs: number[] = [];
  const ended = Promise.withResolvers<void>();
  const watching = (async () => {
    for await (const { event, data } of stage.api.events(`/api/v1/watch?certname=${CERTNAME}`, stop.signal)) {
      if (event !== 'run_event') continue;
      const seen = Date.now();
      const { at, kind } = JSON.parse(data) as { at: string; kind: string };
      latenciesMs.push(seen - Date.parse(at));
      if (kind === 'end') ended.resolve();
    }
  })().catch((error) => {
    if (!stop.signal.aborted) ended.reject(error);
  });
  await until('the candidate', async () => (await nodeOf(stage)).candidate_catalog);
  await stage.api.post('/api/v1/releases', { environment: 'production', nodes: 'all' });
  await ended.promise;
  stop.abort();
  await watching;
  if (latenciesMs.length < resources) throw new Error(`only ${latenciesMs.length} events came`);
  return { events: latenciesMs.length, latenciesMs: latenciesMs.sort((a, b) => a - b) };
}

export { openStage };
