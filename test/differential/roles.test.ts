/**
 * Our catalogs against those of a stock `puppet catalog compile`, role by role on Debian's modules: the same resources with
 * the same parameters in the same order, the same edges, classes and tags. Puppet prints no file metadata here; what we
 * inline is held against the files themselves, and in `metadata.test.ts` against Puppet's own static catalogs.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FileMetadata } from '../../src/model/catalog.ts';
import { openPool, request } from '../ruby-worker/compiling.ts';
import { type Code, canonicalised, factsOf, layCode, stockCatalog } from './code.ts';

const ROLES = {
  web: 'apache',
  db: 'mysql',
  time: 'ntp',
  bastion: 'ssh',
  cloud: 'keystone',
  all: 'all of them at once',
};

const pool = openPool({ concurrency: 2 });
let code: Code;

beforeAll(async () => {
  code = await layCode();
  await pool.start();
}, 300_000);
afterAll(async () => {
  await pool.close();
  await code?.remove();
});

interface Parsed {
  resources: { type: string; title: string; parameters?: Record<string, unknown> }[];
  edges: unknown[];
  metadata?: Record<string, FileMetadata>;
  recursive_metadata?: Record<string, Record<string, FileMetadata[]>>;
}

async function ours(certname: string): Promise<Parsed> {
  const facts = JSON.stringify(await factsOf(certname));
  const asked = request(certname, { codeDirectory: code.directory, facts });
  const result = await pool.compile(asked);
  if (result.status === 'failed') throw new Error(JSON.stringify(result.error));
  // What is told about a compile does not change it.
  const untraced = await pool.compile({ ...asked, trace: false });
  expect(untraced.status === 'compiled' && String(untraced.canonical)).toBe(String(result.canonical));
  return JSON.parse(String(result.canonical));
}

test.concurrent.for(Object.entries(ROLES))('%s: %s', { timeout: 600_000 }, async ([name]) => {
  const certname = `${name}.example.net`;
  const [our, stock] = await Promise.all([ours(certname), stockCatalog(code, certname)]);
  const { metadata = {}, recursive_metadata: trees = {}, ...rest } = our;
  const theirs = canonicalised(code, stock) as unknown as Parsed;

  expect(our.resources.length).toBeGreaterThan(name === 'all' ? 350 : 20);
  for (const [index, resource] of our.resources.entries()) expect(resource).toEqual(theirs.resources[index]);
  expect(our.edges).toEqual(theirs.edges);
  expect(rest).toEqual(theirs);

  // Every puppet: source has its metadata, and nothing else has.
  const sourced = our.resources.filter(
    ({ type, parameters }) => type === 'File' && /^puppet:/.test(String([parameters?.source].flat()[0])),
  );
  expect([...Object.keys(metadata), ...Object.keys(trees)].sort()).toEqual(sourced.map(({ title }) => title).sort());
  for (const one of [
    ...Object.values(metadata),
    ...Object.values(trees).flatMap((tree) => Object.values(tree).flat()),
  ]) {
    if (one.type === 'file') expect(one.checksum.value).toBe(`{sha256}${await hashOf(code, one)}`);
  }
});

async function hashOf(laid: Code, metadata: FileMetadata): Promise<string> {
  const [, , module, ...rest] = metadata.path!.split('/');
  const relative = [...rest, ...(metadata.relative_path ? [metadata.relative_path] : [])].join('/');
  for (const folder of ['site-modules', '.callboard/modulepath/0']) {
    const bytes = await readFile(join(laid.directory, folder, module!, 'files', relative)).catch(() => null);
    if (bytes) return createHash('sha256').update(bytes).digest('hex');
  }
  throw new Error(`no file for ${metadata.path}`);
}
