/**
 * The node daemon against the control plane's API, with real facter, real Puppet, real TLS and a real disk. One control plane for
 * the file; each test has its own node.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type NodeSettings, runNode } from '../../src/run/daemon.ts';
import { catalogOf, directoryMetadata, fileMetadata } from './catalog.ts';
import { makeCa, type TestCa } from './certificates.ts';
import { TestControlPlane } from './control-plane.ts';

const PATIENCE_MS = 90_000;
let directory: string;
let ca: TestCa;
let control: TestControlPlane;
let count = 0;
const cleanups: (() => Promise<void>)[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'callboard-run-'));
  ca = await makeCa(join(directory, 'ca'));
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

afterAll(() => rm(directory, { recursive: true, force: true }));

/** A fresh control plane and a node that is about to start. */
async function setUp(): Promise<{ certname: string; settings: NodeSettings; target: string; lines: string[] }> {
  const certname = `n${++count}.example`;
  const state = join(directory, `state${count}`);
  await ca.issue(certname, join(state, 'ssl'));
  control = new TestControlPlane(ca);
  await control.start();
  cleanups.push(() => control.stop());
  return {
    certname,
    target: await mkdtemp(join(directory, 'target-')),
    lines: [],
    settings: {
      server: control.url,
      certname,
      state,
      ssldir: join(state, 'ssl'),
      environment: null,
      noop: false,
      factsIntervalMs: 3600_000,
      runIntervalMs: 3600_000,
      pollIntervalMs: 60_000,
      splayMs: 0,
      wakeSplayMs: 0,
      logLevel: 'notice',
      puppetSettings: {},
    },
  };
}

interface Running {
  stop(): Promise<void>;
}

function start(settings: NodeSettings, lines: string[]): Running {
  const abort = new AbortController();
  const log = pino({ base: undefined }, { write: (line: string) => void lines.push(line) });
  const done = runNode(settings, log, abort.signal);
  done.catch((error) => lines.push(String(error)));
  const stop = async (): Promise<void> => {
    abort.abort();
    await done;
  };
  cleanups.push(() => stop().catch(() => {}));
  return { stop };
}

/** Waits for a state, and says what the node logged when it does not come. */
async function until<T>(what: string, look: () => T | undefined | false | null, lines: string[] = []): Promise<T> {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = look();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}\n${lines.slice(-40).join('')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('facts with custom ones, a catalog with its content, a run, and every event on the other side', async () => {
  const { certname, settings, target, lines } = await setUp();
  control.setPlugins({
    'lib/facter/colour.rb': "Facter.add(:colour) { setcode { puts 'a fact that prints'; 'green' } }\n",
    'facts.d/shape.sh*': '#!/bin/sh\necho shape=round\n',
    'lib/puppet/functions/demo/greet.rb':
      "Puppet::Functions.create_function(:'demo::greet') { def greet(who); puts 'a function that prints'; \"hello #{who}\"; end }\n",
  });
  const source = 'puppet:///modules/demo/one';
  const tree = 'puppet:///modules/demo/tree';
  control.put('one\n');
  control.put('two\n');
  const id = control.setCatalog(
    catalogOf(
      certname,
      [
        { type: 'File', title: `${target}/one`, parameters: { ensure: 'file', source } },
        { type: 'File', title: `${target}/tree`, parameters: { ensure: 'directory', recurse: true, source: tree } },
        {
          type: 'File',
          title: `${target}/greeting`,
          parameters: { content: { __ptype: 'Deferred', name: 'demo::greet', arguments: ['bob'] } },
        },
        {
          type: 'File',
          title: `${target}/secret`,
          parameters: { content: 'hush hush' },
          sensitive_parameters: ['content'],
        },
        { type: 'Exec', title: '/bin/true', parameters: { refreshonly: true, subscribe: `File[${target}/one]` } },
      ],
      {
        metadata: { [`${target}/one`]: fileMetadata('one\n', source) },
        recursive_metadata: {
          [`${target}/tree`]: {
            [tree]: [
              directoryMetadata(tree, '.'),
              directoryMetadata(tree, 'sub'),
              fileMetadata('two\n', tree, 'sub/two'),
            ],
          },
        },
      },
    ),
  );
  start(settings, lines);
  const [run] = await until('the run', () => control.ended().length > 0 && control.ended(), lines);

  expect(control.facts).toMatchObject({ colour: 'green', shape: 'round', clientcert: certname, clientnoop: false });
  expect(run!.start.data).toMatchObject({ catalog: id, noop: false, request: null, plugins: control.plugins });
  expect(run!.end.data, JSON.stringify(run!.end.data)).toMatchObject({
    status: 'changed',
    exit_code: 2,
    configuration_version: id,
    transaction_uuid: run!.id,
  });
  expect(run!.events.map((event) => event.sequence)).toEqual(run!.events.map((_, index) => index + 1));
  expect(run!.events.at(-1)!.kind).toBe('end');
  const resources = run!.events.filter((event) => event.kind === 'resource').map((event) => event.data);
  expect(resources.find((one) => one.resource === `File[${target}/tree/sub/two]`)).toMatchObject({ changed: true });
  expect(resources.find((one) => one.resource === 'Exec[/bin/true]')!.events[0]).toMatchObject({ name: 'refresh' });
  expect(await readFile(`${target}/one`, 'utf8')).toBe('one\n');
  expect(await readFile(`${target}/tree/sub/two`, 'utf8')).toBe('two\n');
  expect(await readFile(`${target}/greeting`, 'utf8')).toBe('hello bob');
  expect(JSON.stringify(run!.events)).not.toContain('hush hush');
  // The catalog on disk is the one that was served, to the byte.
  expect(await readFile(join(settings.state, 'catalogs', `${id}.json`))).toEqual(control.catalog!.document);
  await until('the spool to be empty', () => control.ended().length > 0);
}, 120_000);
