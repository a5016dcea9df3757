/** Compiles that no change of code or facts asks for: an ENC that says something else, on a real PostgreSQL. */
import { createHash } from 'node:crypto';
import pino from 'pino';
import { beforeEach, expect, test } from 'vitest';
import { recompileJobs } from '../../src/compile/recompile.ts';
import { freshDatabase } from '../postgres/fresh.ts';

const { pool, db } = await freshDatabase();
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const V1 = sha256('code version 1');
const answers = new Map<string, string>();
const asked: string[] = [];

const { recompile } = recompileJobs({
  db,
  logger: pino({ level: 'silent' }),
  pool: { compile: () => Promise.reject(new Error('compiled')) },
  codeDirectory: async () => '/nowhere',
  serverFacts: {},
  askEnc: async (command, certname) => {
    asked.push(`${command} ${certname}`);
    const answer = answers.get(certname);
    if (answer === undefined) throw new Error('the ENC is out of order');
    return { answer, environment: undefined, hash: sha256(answer) };
  },
});
const look = () => recompile!({}, { signal: new AbortController().signal, attempt: 1, lastAttempt: false });

beforeEach(async () => {
  answers.clear();
  asked.length = 0;
  await pool.query('truncate enc_answer, node, environment, fact_document, code_version cascade');
  await pool.query('delete from graphile_worker._private_jobs');
  await pool.query("insert into code_version values ($1, 'plugins', 1, 1, now())", [V1]);
  await pool.query("insert into environment (name, code_version, enc_command) values ('production', $1, '/enc')", [V1]);
  await pool.query("insert into fact_document values ('facts', '{}', now())");
});

/** A node whose ENC was asked some minutes ago. */
async function node(certname: string, minutes: number, answer = 'classes: []'): Promise<void> {
  await pool.query(
    "insert into node (certname, environment, requested_environment, facts) values ($1, 'production', 'production', 'facts')",
    [certname],
  );
  await pool.query("insert into enc_answer values ($1, $2, $3, now() - $4 * interval '1 minute')", [
    certname,
    answer,
    sha256(answer),
    minutes,
  ]);
}

test('an ENC is asked again when the interval is over; another answer is kept and queues the node', async () => {
  await node('same.example', 31);
  await node('other.example', 31);
  await node('fresh.example', 29);
  for (const name of ['same', 'other', 'fresh']) answers.set(`${name}.example`, 'classes: []');
  answers.set('other.example', 'classes: [more]');
  await look();
  expect(asked.sort()).toEqual(['/enc other.example', '/enc same.example']);
  const jobs = await pool.query('select key, payload from graphile_worker._private_jobs');
  expect(jobs.rows.map((row) => row.key)).toEqual([`compile:production:${V1}:other.example`]);
  expect(jobs.rows[0].payload.trigger).toBe('the ENC says something else');
  const { rows } = await pool.query("select answer from enc_answer where certname = 'other.example'");
  expect(rows).toEqual([{ answer: 'classes: [more]' }]);
  await look();
  expect(asked, 'until the interval is over again').toHaveLength(2);
});

test('an ENC that fails leaves its last answer, and its turn to the next', async () => {
  await node('a.example', 31);
  await look();
  await look();
  expect(asked).toEqual(['/enc a.example']);
  expect((await pool.query('select 1 from graphile_worker._private_jobs')).rowCount).toBe(0);
  expect((await pool.query('select answer from enc_answer')).rows).toEqual([{ answer: 'classes: []' }]);
});

test('an environment without an ENC asks none', async () => {
  await node('a.example', 31);
  await pool.query('update environment set enc_command = null');
  await look();
  expect(asked).toEqual([]);
});
