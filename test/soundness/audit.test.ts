/** The audit of skipped compiles finds a skip that should not have been: here one whose read set was tampered with. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { freshDatabase } from '../postgres/fresh.ts';
import { ControlPlane } from './control-plane.ts';
import { type CodeFile, fileOf, type Machine } from './world.ts';

const database = await freshDatabase();
const directory = await mkdtemp(join(tmpdir(), 'callboard-audit-'));
const plane = await ControlPlane.open({ ...database, directory });
afterAll(async () => {
  await plane.close();
  await rm(directory, { recursive: true, force: true });
});

const MACHINES: Machine[] = ['a.example.net', 'b.example.net'].map((certname) => ({
  certname,
  facts: { rack: 'r1' },
  extensions: {},
  enc: '{}\n',
}));
const code = (word: string): Map<string, CodeFile> =>
  new Map([
    ['manifests/site.pp', fileOf("notify { 'm': message => file('m/text') }\n")],
    ['modules/m/files/text', fileOf(word)],
  ]);

test('an unsound skip is found, told, counted and compiled; a sound one is only counted', {
  timeout: 300_000,
}, async () => {
  await database.pool.query('update environment set audit_share = 1');
  plane.classify(MACHINES);
  await plane.deploy(code('first'));
  for (const machine of MACHINES) await plane.submit(machine);
  await plane.compileQueued();
  const before = await plane.outcomes();

  // From here on it is as if the tracer had not seen that `a` reads the file.
  await database.pool.query(`
    with other as (insert into read_set (hash, data) values ('tampered with', '[]') returning id)
    update compiled set read_set = other.id from other where certname = 'a.example.net'`);
  await plane.deploy(code('second'));
  expect([...(await plane.compileQueued()).keys()]).toEqual(['b.example.net']);
  expect((await plane.outcomes()).get('a.example.net')).toEqual(before.get('a.example.net'));
  await plane.submit({ ...MACHINES[1]!, facts: { rack: 'r2' } });

  const audits = await plane.take('audit');
  expect(audits.map((audit) => audit.certname).sort()).toEqual(['a.example.net', 'b.example.net']);
  for (const audit of audits) await plane.run('audit', audit);
  expect(plane.audits.sort()).toEqual(['different', 'same']);
  expect(plane.errors).toMatchObject([
    { certname: 'a.example.net', msg: 'an unsound skip: a compile that was skipped gives another catalog' },
  ]);
  const { rows } = await database.pool.query(
    'select certname, found is distinct from expected as wrong from skip_audit order by certname',
  );
  expect(rows).toEqual([
    { certname: 'a.example.net', wrong: true },
    { certname: 'b.example.net', wrong: false },
  ]);
  expect([...(await plane.compileQueued()).keys()]).toEqual(['a.example.net']);
  const right = (await plane.compileAside('a.example.net')).outcome;
  expect((await plane.outcomes()).get('a.example.net')).toEqual(right);
  expect(right).not.toEqual(before.get('a.example.net'));
});
