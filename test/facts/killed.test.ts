/**
 * P2 for what nodes send. A server process takes facts and run events from nodes that never pause, and is killed with SIGKILL
 * in the middle, again and again. Whatever it acknowledged must be there, and the compile of each change with it; what was on
 * its way is sent again to the next process and ends as if nothing had happened.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { execaNode } from 'execa';
import { expect, test } from 'vitest';
import { splitFacts } from '../../src/model/facts.ts';
import { freshDatabase } from '../postgres/fresh.ts';

const KILLS = 3;
const NODES = 6;

interface Process {
  address: string;
  kill(): Promise<void>;
}

async function start(url: string): Promise<Process> {
  const server = execaNode(new URL('fixtures/intake-server.ts', import.meta.url).pathname, [url], { reject: false });
  const address = await new Promise<string>((resolve, reject) => {
    server.stdout.once('data', (line: Buffer) => resolve(line.toString().trim()));
    server.then(({ stderr }) => reject(new Error(`the server did not start: ${stderr}`)));
  });
  return {
    address,
    kill: async () => {
      server.kill('SIGKILL');
      await server;
    },
  };
}

test('no acknowledged fact, compile or event is lost when the server is killed', { timeout: 240_000 }, async () => {
  const { url, pool } = await freshDatabase();
  await pool.query(`
    insert into code_version (id, plugins, file_count, byte_count) values ('code', 'p', 1, 1);
    insert into environment (name, code_version) values ('production', 'code')`);
  // All of them at once, like rival processes: starting one takes longer than a kill is interesting.
  const servers = await Promise.all(Array.from({ length: KILLS + 1 }, () => start(url)));
  let server = servers[0]!;
  let stopping = false;

  const send = async (certname: string, method: string, path: string, body: string): Promise<unknown> => {
    const response = await fetch(`${server.address}/node/v1/nodes/${certname}${path}`, {
      method,
      body,
      headers: { 'x-test-node': certname, 'content-type': 'application/json' },
      signal: AbortSignal.timeout(5_000),
    });
    if (response.status !== 200) throw new Error(`${path} is answered ${response.status}`);
    return response.json();
  };
  const nodes = Array.from({ length: NODES }, (_, i) => ({
    certname: `n${i}.example`,
    run: randomUUID(),
    facts: [] as string[],
    acknowledged: 0,
  }));
  const work = nodes.map(async (node) => {
    for (let n = 0; !stopping; n += 1) {
      const document = `{"serial":${n},"node":"${node.certname}"}`;
      const lines = [1, 2, 3]
        .map((next) => node.acknowledged + next)
        .map((sequence) => `{"sequence":${sequence},"at":"2026-11-24T10:00:00Z","kind":"log","data":{}}`);
      try {
        await send(node.certname, 'PUT', '/facts', document);
        node.facts.push(splitFacts(Buffer.from(document)).hash);
        const answer = await send(node.certname, 'POST', `/runs/${node.run}/events`, lines.join('\n'));
        node.acknowledged = (answer as { acknowledged: number }).acknowledged;
      } catch {
        await sleep(20);
      }
    }
  });

  for (let kill = 0; kill < KILLS; kill += 1) {
    const goal = nodes.map((node) => node.facts.length + 2);
    await expect.poll(() => nodes.every((node, i) => node.facts.length >= goal[i]!), { timeout: 60_000 }).toBe(true);
    await sleep(30 * Math.random());
    const killed = server;
    server = servers[kill + 1]!;
    await killed.kill();
  }
  stopping = true;
  await Promise.all(work);
  await server.kill();

  for (const { certname, run, facts, acknowledged } of nodes) {
    const history = await pool.query('select facts from fact_history where certname = $1 order by at', [certname]);
    expect(history.rows.map((row) => row.facts)).toEqual(expect.arrayContaining(facts));
    const stored = await pool.query('select facts from node where certname = $1', [certname]);
    // The last acknowledged, or one that was stored but whose answer was lost.
    expect(history.rows.at(-1).facts).toBe(stored.rows[0].facts);
    expect(history.rows.findIndex((row) => row.facts === facts.at(-1))).toBeGreaterThan(-1);
    const jobs = await pool.query('select key from graphile_worker._private_jobs where key = $1', [
      `compile:production:code:${certname}`,
    ]);
    expect(jobs.rows).toHaveLength(1);
    const events = await pool.query('select sequence from run_event where run = $1 order by sequence', [run]);
    expect(acknowledged).toBeGreaterThan(0);
    expect(events.rows.length).toBeGreaterThanOrEqual(acknowledged);
    expect(events.rows.map((row) => row.sequence)).toEqual(events.rows.map((_, i) => i + 1));
    const { rows } = await pool.query('select last_sequence, event_count from run where id = $1', [run]);
    expect(rows[0]).toEqual({ last_sequence: events.rows.length, event_count: events.rows.length });
  }
});
