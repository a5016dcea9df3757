/**
 * The node daemon against the control plane's API, with real facter, real Puppet, real TLS and a real disk. One control plane for
 * the file; each test has its own node.
 */
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type NodeSettings, runNode } from '../../src/run/daemon.ts';
import { catalogOf, directoryMetadata, fileMetadata } from './catalog.ts';
import { makeCa, type TestCa } from './certificates.ts';
import { TestControlPlane } from './control-plane.ts';

const PATIENCE_MS = 400_000;
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
  expect(resources.find((one) => one.resource === 'Exec[/bin/true]')!.events![0]).toMatchObject({ name: 'refresh' });
  expect(await readFile(`${target}/one`, 'utf8')).toBe('one\n');
  expect(await readFile(`${target}/tree/sub/two`, 'utf8')).toBe('two\n');
  expect(await readFile(`${target}/greeting`, 'utf8')).toBe('hello bob');
  expect(JSON.stringify(run!.events)).not.toContain('hush hush');
  // The catalog on disk is the one that was served, to the byte.
  expect(await readFile(join(settings.state, 'catalogs', `${id}.json`))).toEqual(control.catalog!.document);
}, 900_000);

test('with the control plane away a node goes on, and on return everything is delivered once', async () => {
  const { certname, settings, target, lines } = await setUp();
  const source = 'puppet:///modules/demo/motd';
  control.put('welcome\n');
  control.setCatalog(
    catalogOf(certname, [{ type: 'File', title: `${target}/motd`, parameters: { source } }], {
      metadata: { [`${target}/motd`]: fileMetadata('welcome\n', source) },
    }),
  );
  start({ ...settings, runIntervalMs: 3000, pollIntervalMs: 2000 }, lines);
  await until('a first run', () => control.ended().length > 0, lines);
  await control.stop();
  const asked = control.requests.length;
  // A hand on the machine; the runs that follow have nobody to ask for the file's content.
  await rm(`${target}/motd`);
  const spool = join(settings.state, 'spool');
  const complete = async (): Promise<number> => {
    const names = (await readdir(spool)).filter((name) => name.endsWith('.ndjson'));
    const texts = await Promise.all(names.map((name) => readFile(join(spool, name), 'utf8').catch(() => '')));
    return texts.filter((text) => text.includes('"kind":"end"')).length;
  };
  let spooled = 0;
  await until(
    'three runs in the spool',
    () => {
      void complete().then((count) => (spooled = count));
      return spooled >= 3;
    },
    lines,
  );
  expect(await readFile(`${target}/motd`, 'utf8')).toBe('welcome\n');
  expect(control.requests.length).toBe(asked);

  await control.start();
  await until('the spooled runs', () => control.ended().length >= 4, lines);
  const runs = control.ended();
  for (const run of runs) {
    expect(run.events.map((event) => event.sequence)).toEqual(run.events.map((_, index) => index + 1));
    expect(run.events.at(-1)!.kind).toBe('end');
  }
  const repaired = runs.filter((run) => run.end.data.status === 'changed' && run !== runs[0]);
  expect(repaired).toHaveLength(1);
  expect(repaired[0]!.end.data.corrective_change).toBe(true);
  expect(
    repaired[0]!.events.find((event) => event.data.resource === `File[${target}/motd]`)!.data.corrective_change,
  ).toBe(true);
  // Oldest first: no event of a later run came before the last of an earlier one.
  const late = runs.slice(1, 4);
  for (const [index, run] of late.slice(1).entries())
    expect(run.start.seenAt).toBeGreaterThanOrEqual(late[index]!.end.seenAt);
}, 900_000);

test.runIf(existsSync('/usr/bin/strace'))(
  'a run opens no connection, files from sources and deferred functions included',
  async () => {
    const { certname, settings, target, lines } = await setUp();
    const trace = join(directory, 'trace');
    control.setPlugins({
      'lib/puppet/functions/demo/greet.rb':
        "Puppet::Functions.create_function(:'demo::greet') { def greet(who); who; end }\n",
    });
    const source = 'puppet:///modules/demo/one';
    control.put('one\n');
    control.setCatalog(
      catalogOf(
        certname,
        [
          { type: 'File', title: `${target}/one`, parameters: { source } },
          {
            type: 'File',
            title: `${target}/two`,
            parameters: { content: { __ptype: 'Deferred', name: 'demo::greet', arguments: ['x'] } },
          },
          // Shows that the trace sees what there is to see.
          { type: 'Exec', title: 'seen', parameters: { command: '/bin/true' } },
        ],
        { metadata: { [`${target}/one`]: fileMetadata('one\n', source) } },
      ),
    );
    start(settings, lines);
    await until('the first run', () => control.ended().length === 1, lines);
    // From here on no facts are collected, which do ask for addresses and names.
    const warm = lines.find((line) => line.includes('the runner is warm'))!;
    const pid = String(JSON.parse(warm).runner);
    const tracer = execa('strace', ['-f', '-e', 'trace=%network,execve', '-o', trace, '-p', pid], { reject: false });
    cleanups.push(async () => {
      tracer.kill('SIGKILL');
      await tracer;
    });
    let traced = '';
    tracer.stderr.on('data', (chunk) => {
      traced += chunk;
    });
    await until('the tracer', () => traced.includes('attached'), lines);
    await rm(`${target}/one`);
    control.request = { id: '0190a000-0000-7000-8000-000000000004', mode: 'do' };
    control.wake('run');
    await until('the requested run', () => control.ended().length === 2, lines);
    expect(control.ended()[1]!.end.data).toMatchObject({ status: 'changed', exit_code: 2 });
    expect(await readFile(`${target}/one`, 'utf8')).toBe('one\n');
    tracer.kill('SIGINT');
    await tracer;
    const calls = await readFile(trace, 'utf8');
    expect(calls).toContain('execve("/bin/true"');
    expect(calls.split('\n').filter((line) => /AF_INET|AF_NETLINK/.test(line))).toEqual([]);
  },
  900_000,
);

test('wake-ups, run requests, noop, and only the content that is lacking', async () => {
  const { certname, settings, target, lines } = await setUp();
  const files = (texts: Record<string, string>): object => {
    const resources = Object.keys(texts).map((name) => ({
      type: 'File',
      title: `${target}/${name}`,
      parameters: { source: `puppet:///modules/demo/${name}` },
    }));
    for (const text of Object.values(texts)) control.put(text);
    const metadata = Object.fromEntries(
      Object.entries(texts).map(([name, text]) => [
        `${target}/${name}`,
        fileMetadata(text, `puppet:///modules/demo/${name}`),
      ]),
    );
    return catalogOf(certname, resources, { metadata });
  };
  control.runMode = 'noop';
  control.setCatalog(files({ a: 'a\n' }));
  start(settings, lines);
  const [first] = await until('the noop run', () => control.ended().length === 1 && control.ended(), lines);
  expect(first!.start.data).toMatchObject({ noop: true, trigger: 'catalog' });
  expect(first!.end.data).toMatchObject({ status: 'unchanged', noop_pending: true });
  expect(await readdir(target)).toEqual([]);

  await until('the wake-up stream', () => control.streams > 0, lines);
  control.request = { id: '0190a000-0000-7000-8000-000000000001', mode: 'do' };
  control.wake('run');
  await until('the requested run', () => control.ended().length === 2, lines);
  expect(control.ended()[1]!.start.data).toMatchObject({
    noop: false,
    trigger: 'request',
    request: '0190a000-0000-7000-8000-000000000001',
  });
  expect(await readFile(`${target}/a`, 'utf8')).toBe('a\n');

  const asked = control.requests.length;
  control.runMode = 'do';
  control.setCatalog(files({ a: 'a\n', b: 'b\n' }));
  control.wake('catalog');
  await until('the run of the new catalog', () => control.ended().length === 3, lines);
  expect(await readFile(`${target}/b`, 'utf8')).toBe('b\n');
  expect(control.requests.slice(asked).filter((line) => line.startsWith('GET /content'))).toHaveLength(1);
  // Content that neither this catalog nor the one before names is removed.
  control.setCatalog(files({ c: 'c\n' }));
  control.wake('catalog');
  await until('the fourth run', () => control.ended().length === 4, lines);
  control.setCatalog(files({ c: 'c\n', d: 'd\n' }));
  control.wake('catalog');
  await until('the fifth run', () => control.ended().length === 5, lines);
  const content = (await readdir(join(settings.state, 'content'), { recursive: true })).filter(
    (name) => name.length > 10,
  );
  expect(content).toHaveLength(2);
  expect((await readdir(join(settings.state, 'catalogs'))).sort()).toHaveLength(3);
}, 900_000);

test('damaged content is not taken, the catalog before stays, and the new one comes when the content is whole', async () => {
  const { certname, settings, target, lines } = await setUp();
  const source = 'puppet:///modules/demo/one';
  const catalog = (text: string): object => {
    control.put(text);
    return catalogOf(certname, [{ type: 'File', title: `${target}/one`, parameters: { source } }], {
      metadata: { [`${target}/one`]: fileMetadata(text, source) },
    });
  };
  const before = control.setCatalog(catalog('1\n'));
  start({ ...settings, pollIntervalMs: 500 }, lines);
  await until('the first run', () => control.ended().length === 1, lines);
  control.corrupt = control.put('2\n');
  const after = control.setCatalog(catalog('2\n'));
  await until(
    'the refusal',
    () => lines.some((line) => line.includes('CONTENT_MISMATCH') || line.includes('The bytes hash to')),
    lines,
  );
  expect(JSON.parse(await readFile(join(settings.state, 'catalogs/current.json'), 'utf8')).catalog).toBe(before);
  control.corrupt = null;
  await until('the second run', () => control.ended().length === 2, lines);
  expect(control.ended()[1]!.start.data.catalog).toBe(after);
  expect(await readFile(`${target}/one`, 'utf8')).toBe('2\n');

  // Damage on this disk: Puppet does not put it in place, the file is put aside, fetched again, and the next run is whole.
  const hash = control.put('2\n');
  await writeFile(join(settings.state, 'content', hash.slice(0, 2), hash), 'X\n');
  await rm(`${target}/one`);
  control.request = { id: '0190a000-0000-7000-8000-000000000002', mode: 'do' };
  control.wake('run');
  await until('the failed run', () => control.ended().length === 3, lines);
  expect(control.ended()[2]!.end.data).toMatchObject({ status: 'failed', content_lacking: [hash] });
  await until('the content', () => lines.some((line) => line.includes('was lacking')), lines);
  control.request = { id: '0190a000-0000-7000-8000-000000000003', mode: 'do' };
  control.wake('run');
  await until('the mended run', () => control.ended().length === 4, lines);
  expect(await readFile(`${target}/one`, 'utf8')).toBe('2\n');
}, 900_000);

test('a stop lets the run end and tells of it; a second daemon on the same state is refused', async () => {
  const { certname, settings, target, lines } = await setUp();
  control.setCatalog(
    catalogOf(certname, [
      { type: 'Exec', title: 'slow', parameters: { command: '/bin/sleep 2' } },
      { type: 'File', title: `${target}/after`, parameters: { content: 'x', require: 'Exec[slow]' } },
    ]),
  );
  const node = start(settings, lines);
  await until('the run to begin', () => control.runs.size === 1, lines);
  await expect(runNode(settings, pino({ enabled: false }), new AbortController().signal)).rejects.toMatchObject({
    code: 'NODE_STATE_IN_USE',
    message: expect.stringContaining(String(process.pid)),
  });
  await node.stop();
  expect(control.ended()).toHaveLength(1);
  expect(control.ended()[0]!.end.data).toMatchObject({ status: 'changed' });
  expect(await readFile(`${target}/after`, 'utf8')).toBe('x');
}, 900_000);

test('a run that does not end in time is stopped after its present resource, and says so', async () => {
  const { certname, settings, target, lines } = await setUp();
  control.setCatalog(
    catalogOf(certname, [
      { type: 'Exec', title: 'slow', parameters: { command: '/bin/sleep 3' } },
      { type: 'File', title: `${target}/after`, parameters: { content: 'x', require: 'Exec[slow]' } },
    ]),
  );
  const node = start({ ...settings, runFinishMs: 200 }, lines);
  await until('the run to begin', () => control.runs.size === 1, lines);
  await new Promise((resolve) => setTimeout(resolve, 500));
  await node.stop();
  const [run] = control.ended();
  expect(run!.end.data).toMatchObject({ status: 'failed', interrupted: true, reason: 'The run was stopped' });
  expect(await readdir(target)).toEqual([]);
}, 900_000);

test('a module that exits, and a runner that is killed, fail their run and no other', async () => {
  const { certname, settings, target, lines } = await setUp();
  control.setPlugins({
    'lib/puppet/functions/demo/leave.rb':
      "Puppet::Functions.create_function(:'demo::leave') { def leave; exit 0; end }\n",
  });
  const good = [{ type: 'File', title: `${target}/good`, parameters: { content: 'x' } }];
  const deferred = { content: { __ptype: 'Deferred', name: 'demo::leave', arguments: [] } };
  control.setCatalog(catalogOf(certname, [...good, { type: 'File', title: `${target}/bad`, parameters: deferred }]));
  start({ ...settings, pollIntervalMs: 1000 }, lines);
  await until('the run that exits', () => control.ended().length === 1, lines);
  expect(control.ended()[0]!.end.data).toMatchObject({ status: 'failed', exit_code: 1 });

  control.setCatalog(
    catalogOf(certname, [...good, { type: 'Exec', title: 'slow', parameters: { command: '/bin/sleep 3' } }]),
  );
  control.wake('catalog');
  await until('the run to begin', () => control.runs.size === 2, lines);
  await until('its first resource', () => control.events([...control.runs.keys()].sort()[1]!).length > 2, lines);
  const warm = lines.filter((line) => line.includes('the runner is warm'));
  process.kill(JSON.parse(warm.at(-1)!).runner, 'SIGKILL');
  await until('the end of the run', () => control.ended().length === 2, lines);
  expect(control.ended()[1]!.end.data).toMatchObject({ status: 'failed', interrupted: true });

  control.setCatalog(catalogOf(certname, good));
  control.wake('catalog');
  await until('the next run', () => control.ended().length === 3, lines);
  expect(control.ended()[2]!.end.data).toMatchObject({ status: 'unchanged', exit_code: 0 });
}, 900_000);
