/**
 * Load from a process of its own, so that its work is not counted as the server's. Each connection is TLS with the client
 * certificate, kept alive, with one request under way at a time.
 */
import { execaNode } from 'execa';
import type { Authority } from './authority.ts';
import { cpuSecondsOf } from './cpu.ts';
import type { LoadRequest, LoadResult } from './load-client.ts';
import type { Serving } from './yardstick.ts';

export interface LoadOptions {
  serving: Serving;
  authority: Authority;
  /** Sent again and again, in turn, on each connection. */
  requests?: LoadRequest[];
  /**
   * Or a module whose `next(connection: number, n: number): LoadRequest` makes each request; `requests` is handed to its
   * `prepare(requests)` if it has one.
   */
  module?: string;
  connections: number;
  seconds: number;
  /** What goes before the measuring: at least so long and, within a minute, so many requests. */
  warmSeconds?: number;
  warmRequests?: number;
}

export interface Measured extends LoadResult {
  /** CPU seconds of the serving processes while the load ran. */
  cpuSeconds: number;
  requestsPerCpuSecond: number;
}

/** Runs one load and measures the server's CPU time meanwhile. Throws when an answer was not of the expected status. */
export async function measure(options: LoadOptions): Promise<Measured> {
  const { serving, authority } = options;
  const client = execaNode(new URL('load-client.ts', import.meta.url).pathname, [], { ipc: true, reject: false });
  await client.sendMessage({
    host: serving.host,
    port: serving.port,
    files: authority.files,
    requests: options.requests ?? [],
    ...(options.module ? { module: options.module } : {}),
    connections: options.connections,
    seconds: options.seconds,
    warmSeconds: options.warmSeconds ?? 0.5,
    warmRequests: options.warmRequests ?? 0,
  });
  let before = 0;
  for await (const message of client.getEachMessage()) {
    if (message === 'warm') before = cpuSecondsOf(serving.pids);
    else {
      const cpuSeconds = cpuSecondsOf(serving.pids) - before;
      await client;
      const result = message as unknown as LoadResult;
      if (result.unexpected) throw new Error(`unexpected answer: ${result.unexpected}`);
      return { ...result, cpuSeconds, requestsPerCpuSecond: result.requests / cpuSeconds };
    }
  }
  throw new Error(`the load client ended: ${(await client).stderr}`);
}
