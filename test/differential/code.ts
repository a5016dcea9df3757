/** The differential repo with Debian's modules, as a code version on disk and as an environment of a stock Puppet. */
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

const REPO = fileURLToPath(new URL('../fixtures/differential-repo', import.meta.url));
const FACTS = new URL('../fixtures/facts/debian-12.json', import.meta.url);
const MODULES = '/usr/share/puppet/modules';

export interface Code {
  /** The code version: what our compilers get. */
  directory: string;
  /** An environmentpath whose `production` is the same directory. */
  environmentPath: string;
  /** A directory for a stock Puppet's own things. */
  stock: string;
  remove(): Promise<void>;
}

export async function layCode(): Promise<Code> {
  const root = await mkdtemp(join(tmpdir(), 'callboard-differential-'));
  const directory = join(root, 'code');
  const environmentPath = join(root, 'environments');
  const stock = join(root, 'stock');
  await mkdir(join(directory, '.callboard', 'modulepath'), { recursive: true });
  await mkdir(environmentPath);
  await mkdir(stock);
  await execa('cp', ['-r', `${REPO}/.`, directory]);
  const modules = (await readdir(MODULES)).filter((name) => /^[a-z][a-z0-9_]*$/.test(name));
  await mkdir(join(directory, '.callboard', 'modulepath', '0'));
  await execa('cp', [
    '-rL',
    ...modules.map((name) => join(MODULES, name)),
    join(directory, '.callboard', 'modulepath', '0'),
  ]);
  await writeFile(
    join(directory, '.callboard', 'environment.json'),
    JSON.stringify({ modulepath: ['site-modules', 'modules', '.callboard/modulepath/0'] }),
  );
  await symlink(directory, join(environmentPath, 'production'));
  return { directory, environmentPath, stock, remove: () => rm(root, { recursive: true }) };
}

/** A real machine's facts, with the names of another. */
export async function factsOf(certname: string): Promise<Record<string, unknown>> {
  return { ...JSON.parse(await readFile(FACTS, 'utf8')), clientcert: certname };
}

/** What `puppet catalog compile` prints for the node: a process of its own, told nothing of this machine's Puppet. */
export async function stockCatalog(code: Code, certname: string): Promise<Record<string, unknown>> {
  const home = join(code.stock, certname);
  const facts = join(home, 'var', 'server_data', 'facts');
  await mkdir(facts, { recursive: true });
  await mkdir(join(home, 'conf'));
  await writeFile(
    join(facts, `${certname}.json`),
    JSON.stringify({
      name: certname,
      values: await factsOf(certname),
      timestamp: '2026-01-01T00:00:00.000000000 +0000',
      expiration: '2099-01-01T00:00:00.000000000 +0000',
    }),
  );
  const { stdout } = await execa(
    'puppet',
    [
      ...['catalog', 'compile', certname, '--render-as', 'json', '--environment', 'production'],
      ...['--confdir', join(home, 'conf'), '--vardir', join(home, 'var'), '--certname', 'callboard'],
      ...['--environmentpath', code.environmentPath],
      ...['--basemodulepath', join(code.directory, '.callboard', 'modulepath', '0')],
      ...['--facts_terminus', 'json', '--node_terminus', 'plain'],
    ],
    { env: { PATH: process.env.PATH, HOME: home, LANG: 'C.UTF-8' }, extendEnv: false },
  );
  // What Puppet logs goes the same way; the catalog is the one line that is an object.
  const line = stdout.split('\n').find((text) => text.startsWith('{'));
  return JSON.parse(line ?? 'null');
}

/** docs/formats/catalog-v1.md, section "Canonical form", for a catalog that Puppet printed. */
export function canonicalised(code: Code, catalog: Record<string, unknown>): Record<string, unknown> {
  const { version: _, catalog_uuid: __, code_id: ___, ...rest } = catalog;
  const prefixes = [`${code.environmentPath}/production/`, `${code.directory}/`];
  for (const resource of rest.resources as { file?: string }[]) {
    const prefix = prefixes.find((one) => resource.file?.startsWith(one));
    if (prefix) resource.file = resource.file!.slice(prefix.length);
  }
  return rest;
}
