/**
 * `make demo`: the whole loop on this machine, live. A control plane, a real git control repo, and this machine as a real
 * node whose managed files all live under `.demo/managed`. Every command that a person would type is shown with what it
 * really printed. Ends by itself, with exit code 0 only if everything happened as told.
 */
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, rm, symlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import pc from '../src/cli/colours.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** Everything that the demo makes lies in here; another folder may be given as the argument. */
const DEMO = resolve(process.argv[2] ?? join(ROOT, '.demo'));
const MANAGED = join(DEMO, 'managed');
const MODULES = join(DEMO, 'modules');
const REPO = join(DEMO, 'control-repo');
const NODE = 'demo.callboard.test';
const startedAt = Date.now();
const did: string[] = [];
const daemons: ResultPromise[] = [];
/** Why nothing more will happen: a process of the demo ended by itself. */
let died: string | undefined;
const environment: Record<string, string> = {};

/** Runs `./callboard …` as shown, prints its output, and fails the demo on an unexpected exit code. */
async function callboard(args: string[], options: { exitCode?: number; quiet?: boolean } = {}): Promise<string> {
  if (!options.quiet)
    process.stdout.write(`\n${pc.cyan('$')} ${pc.bold(`./callboard ${args.map(quoted).join(' ')}`)}\n`);
  const result = await execa(join(ROOT, 'callboard'), args, {
    env: { ...environment, NO_COLOR: '1', COLUMNS: '140' },
    all: true,
    reject: false,
    timeout: 120_000,
  });
  if (!options.quiet) process.stdout.write(`${result.all}\n`);
  if (result.exitCode !== (options.exitCode ?? 0)) {
    throw new Error(
      `callboard ${args.join(' ')} ended with exit code ${result.exitCode}, not ${options.exitCode ?? 0}:\n${result.all}`,
    );
  }
  return result.stdout;
}

const json = async <Answer>(args: string[]): Promise<Answer> =>
  JSON.parse(await callboard([...args, '--json'], { quiet: true }));

function daemon(name: string, args: string[], env: Record<string, string> = {}): ResultPromise {
  const log = join(DEMO, `${name}.log`);
  process.stdout.write(
    `\n${pc.cyan('$')} ${pc.bold(`./callboard ${args.map(quoted).join(' ')} &`)}   ${pc.dim(`# log: .demo/${name}.log`)}\n`,
  );
  const child = execa(join(ROOT, 'callboard'), args, {
    env,
    all: true,
    buffer: false,
    reject: false,
    stdout: { file: log },
    stderr: { file: log },
    cleanup: true,
  });
  daemons.push(child);
  void child.then((ended) => {
    if (ended.exitCode !== 0) died = `the ${name} ended with exit code ${ended.exitCode}: see ${name}.log`;
  });
  return child;
}

function quoted(argument: string): string {
  // A module path must be absolute, also where the line is typed again.
  if (argument === MODULES && argument.startsWith(ROOT)) return `"$PWD"/${argument.slice(ROOT.length)}`;
  const shown = argument.replaceAll(`${ROOT}`, '').replaceAll(ROOT.slice(0, -1), '.');
  return /[\s'"$]/.test(shown) ? `'${shown}'` : shown;
}

function step(title: string): void {
  process.stdout.write(`\n${pc.yellow(`── ${title} ${'─'.repeat(Math.max(0, 100 - title.length))}`)}\n`);
}

/** Waits for a state, with a deadline; says what it waits for. */
async function until<T>(what: string, ask: () => Promise<T | undefined | false>, seconds = 300): Promise<T> {
  const deadline = Date.now() + seconds * 1000;
  let last: unknown;
  while (Date.now() < deadline) {
    if (died) throw new Error(died);
    try {
      const answer = await ask();
      if (answer) return answer;
    } catch (error) {
      last = error;
    }
    await sleep(100);
  }
  throw new Error(`waited ${seconds} s in vain for ${what}${last ? `: ${(last as Error).message}` : ''}`);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function git(...args: string[]): Promise<string> {
  const { stdout } = await execa('git', [
    '-c',
    'user.name=Demo',
    '-c',
    'user.email=demo@callboard.test',
    '-C',
    REPO,
    ...args,
  ]);
  return stdout;
}

interface NodeView {
  released_catalog: string | null;
  candidate_catalog: string | null;
  candidate_code_version: string | null;
  compile_failed: boolean;
  run: { id: string; status: string; noop: boolean; catalog: string } | null;
}

const nodeView = (): Promise<NodeView> => json<NodeView>(['node', 'show', NODE]);

/** Deploys what is committed, and waits until the node's candidate is of that code version, or did not compile. */
async function deploy(): Promise<NodeView> {
  await callboard(['code', 'deploy', 'production', '--repo', REPO, '--ref', 'main']);
  const [newest] = await json<{ id: string }[]>(['code', 'list', 'production']);
  return until('the candidate', async () => {
    const node = await nodeView();
    return node.candidate_code_version === newest!.id && (node.candidate_catalog || node.compile_failed)
      ? node
      : undefined;
  });
}

/** Waits for the run that a new catalog brings about, and shows it. */
async function nextRun(previous: string | undefined): Promise<string> {
  const run = await until('the run of the new catalog', async () => {
    const found = (await nodeView()).run;
    return found && found.id !== previous && found.status !== 'running' ? found : undefined;
  });
  await callboard(['run', 'show', run.id]);
  if (run.status === 'failed') throw new Error(`run ${run.id} failed`);
  return run.id;
}

const managed = (path: string): Promise<string> => readFile(join(MANAGED, path), 'utf8');

/** Fails the demo when something is not as told. */
function check(what: string, isSo: boolean): void {
  if (!isSo) throw new Error(`not as told: ${what}`);
  process.stdout.write(`${pc.green('✓')} ${what}\n`);
}

async function commitChange(patch: string): Promise<void> {
  const file = join(ROOT, 'examples/changes', patch);
  const [message] = (await readFile(file, 'utf8')).split('\n');
  await git('apply', file);
  await git('commit', '-qam', message!);
  process.stdout.write(
    `\n${pc.cyan('$')} ${pc.bold(`git commit -am '${message}'`)}\n${await git('show', '--stat', '--format=', 'HEAD')}\n`,
  );
}

async function demo(): Promise<void> {
  await rm(DEMO, { recursive: true, force: true });
  await mkdir(DEMO, { recursive: true });

  step('A control plane: one process, with a database and a CA of its own');
  const port = await freePort();
  const url = `https://localhost:${port}`;
  const state = join(DEMO, 'server');
  // Of Debian's modules those that the control repo uses, whatever else this machine has installed.
  await mkdir(MODULES);
  for (const name of ['stdlib', 'concat', 'inifile'])
    await symlink(`/usr/share/puppet/modules/${name}`, join(MODULES, name));
  const serverArgs = [
    'server',
    '--state',
    state,
    '--base-modulepath',
    MODULES,
    '--listen',
    `127.0.0.1:${port}`,
    '--metrics-listen',
    '127.0.0.1:0',
  ];
  daemon('server', serverArgs);
  // Until there is a token nobody can ask it anything; its log says when it answers.
  await until('the control plane', async () =>
    (await readFile(join(DEMO, 'server.log'), 'utf8')).includes('the control plane answers'),
  );
  environment.XDG_CONFIG_HOME = join(DEMO, 'config');
  await callboard([
    'operator',
    'token',
    'create',
    '--role',
    'admin',
    '--name',
    'demo',
    '--save',
    '--server',
    url,
    '--state',
    state,
  ]);
  await callboard([
    'cert',
    'issue',
    NODE,
    '--out',
    join(DEMO, 'node/ssl'),
    '--extension',
    'pp_role=board',
    '--state',
    state,
  ]);
  did.push('started a control plane with an embedded PostgreSQL and CA; issued a certificate and a token');

  step('A control repo: code from git becomes an immutable code version');
  await cp(join(ROOT, 'examples/control-repo'), REPO, { recursive: true });
  await execa('git', ['init', '-q', '-b', 'main', REPO]);
  await git('add', '-A');
  await git('commit', '-qm', 'The departure board');
  await callboard(['code', 'deploy', 'production', '--repo', REPO, '--ref', 'main']);
  did.push('deployed a control repo that uses stdlib, concat and inifile as Debian packages them');

  step('This machine as a node: it sends facts, and its catalog is compiled before anybody asks for it');
  const nodeArgs = ['node', '--server', url, '--certname', NODE, '--state', join(DEMO, 'node'), '--splay', '1s'];
  daemon('node', nodeArgs, { FACTER_callboard_demo_root: MANAGED });
  const first = await until('facts and a candidate', async () => {
    const node = await nodeView().catch(() => undefined);
    return node?.candidate_catalog ? node : undefined;
  });
  await callboard(['node', 'list']);
  check('compiled is not released: the node was told nothing', first.released_catalog === null && first.run === null);
  did.push('facts of this machine came in; real Puppet compiled its catalog, stored under the hash of its content');

  step('A rehearsal: released, but the policy says noop');
  await callboard(['environment', 'set', 'production', '--run', 'noop']);
  await callboard(['release', 'production', '--all']);
  let run = await nextRun(undefined);
  check('a noop run changes nothing', !existsSync(MANAGED));
  did.push('released it under the policy run=noop: the node said what it would do, and did nothing');

  step('The run');
  await callboard(['environment', 'set', 'production', '--run', 'do']);
  await callboard(['run', 'start', NODE, '--wait']);
  run = (await nodeView()).run!.id;
  check('the board is there', (await managed('www/index.html')).includes('Departures'));
  const before = await managed('www/index.html');
  await callboard(['run', 'start', NODE, '--wait']);
  run = (await nodeView()).run!.id;
  did.push('ran it: files from ERB, EPP, a recursive directory, concat and ini settings; a second run changed nothing');

  step('A second commit: seen first, then released');
  await commitChange('2-a-night-ferry.patch');
  await deploy();
  await callboard(['diff', NODE], { exitCode: 3 });
  check('nothing has changed on the node yet', (await managed('www/index.html')) === before);
  await callboard(['release', 'production', '--all']);
  run = await nextRun(run);
  check('the night ferry is on the board', (await managed('www/index.html')).includes('21:30'));
  did.push('committed a change, saw its diff against what is released, released it: only what differs was touched');

  step('A commit with a mistake: Puppet says so, and no node notices');
  await commitChange('3-a-mistake.patch');
  const broken = await deploy();
  await callboard(['node', 'show', NODE]);
  check('the last good catalog stays released', broken.compile_failed && broken.released_catalog !== null);
  await callboard(['release', 'production', '--all'], { exitCode: 1 });
  check('what did not compile cannot be released', (await nodeView()).released_catalog === broken.released_catalog);
  did.push("committed a mistake: the compile failed with Puppet's message, file and line; the node kept its catalog");

  step('Rollback: the pointer goes back, and the node with it');
  await callboard(['rollback', 'production', '--all']);
  run = await nextRun(run);
  check('the board is the first one again', (await managed('www/index.html')) === before);
  await callboard(['run', 'list']);
  did.push('rolled back: the node returned to the catalog it had, bit for bit');

  step('What happened');
  did.forEach((each, index) => {
    process.stdout.write(`${String(index + 1).padStart(2)}. ${each}\n`);
  });
  process.stdout.write(`
That took ${Math.round((Date.now() - startedAt) / 1000)} s. Everything lies in .demo/ (logs, state, the git repo, .demo/managed). To go on by hand:

  ./callboard ${serverArgs.map(quoted).join(' ')} &
  FACTER_callboard_demo_root=$PWD/.demo/managed ./callboard ${nodeArgs.map(quoted).join(' ')} &
  export XDG_CONFIG_HOME=$PWD/.demo/config
  ./callboard watch          # and in another terminal: ./callboard run start ${NODE}
`);
}

/** Ends what the demo started, the node first. */
async function stop(): Promise<void> {
  for (const child of daemons.reverse()) {
    child.kill('SIGTERM');
    await child;
  }
}

process.on('SIGINT', () => {
  void stop().then(() => process.exit(130));
});
try {
  await demo();
} catch (error) {
  process.exitCode = 1;
  process.stderr.write(
    `\n${pc.red('The demo failed:')} ${(error as Error).message}\nLogs: .demo/server.log, .demo/node.log\n`,
  );
} finally {
  await stop();
}
