/** `cert` and `operator` as people run them: what they write, whom they let in, what they refuse. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Command } from 'commander';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { certCommand } from '../../src/cli/cert.ts';
import { operatorCommand } from '../../src/cli/operator.ts';
import { openCa } from '../../src/http/ca.ts';
import { Tokens } from '../../src/http/tokens.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';

const run = promisify(execFile);

// Other programs are started here, and a machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let directory: string;
let state: string;
let database: FreshDatabase;
let said = { out: '', err: '' };

beforeAll(async () => {
  database = await freshDatabase();
  directory = await mkdtemp(join(tmpdir(), 'callboard-cli-'));
  state = join(directory, 'state');
  (await openCa(state)).close();
  await writeFile(join(state, 'database.json'), JSON.stringify({ url: database.url }));
});
afterAll(() => rm(directory, { recursive: true }));
beforeEach(() => {
  said = { out: '', err: '' };
  const keep = (stream: 'out' | 'err') => (text: unknown) => {
    said[stream] += text;
    return true;
  };
  vi.spyOn(process.stdout, 'write').mockImplementation(keep('out'));
  vi.spyOn(process.stderr, 'write').mockImplementation(keep('err'));
  return () => vi.restoreAllMocks();
});

async function call(command: Command, ...words: string[]): Promise<string> {
  const quiet = (each: Command): void => {
    each.exitOverride();
    each.commands.forEach(quiet);
  };
  quiet(command);
  await command.parseAsync(words, { from: 'user' });
  return said.out;
}
const cert = (...words: string[]) => call(certCommand(), ...words);
const operator = (...words: string[]) => call(operatorCommand(), ...words);

describe('cert issue', () => {
  test("writes Puppet's ssldir, its key for its owner alone, and OpenSSL verifies it", async () => {
    const out = join(directory, 'ssl');
    const extensions = ['--extension', 'pp_role=web=1', '--extension', '1.3.6.1.4.1.34380.1.2.1=x'];
    expect(
      await cert('issue', 'web1.example', '--out', out, '--state', state, ...extensions, '--days', '30'),
    ).toContain('Issued web1.example');
    expect((await readdir(out, { recursive: true })).sort()).toEqual(
      [
        'certs',
        'certs/ca.pem',
        'certs/web1.example.pem',
        'crl.pem',
        'private_keys',
        'private_keys/web1.example.pem',
      ].sort(),
    );
    expect((await stat(join(out, 'private_keys/web1.example.pem'))).mode & 0o777).toBe(0o600);
    const own = join(out, 'certs/web1.example.pem');
    await run('openssl', [
      'verify',
      '-x509_strict',
      '-crl_check',
      '-CAfile',
      join(out, 'certs/ca.pem'),
      '-CRLfile',
      join(out, 'crl.pem'),
      own,
    ]);
    const key = (await run('openssl', ['pkey', '-in', join(out, 'private_keys/web1.example.pem'), '-pubout'])).stdout;
    expect((await run('openssl', ['x509', '-in', own, '-noout', '-pubkey'])).stdout).toBe(key);
    await run('openssl', ['x509', '-in', own, '-noout', '-checkend', String(29 * 86_400)]);
    await expect(run('openssl', ['x509', '-in', own, '-noout', '-checkend', String(31 * 86_400)])).rejects.toThrow();
  });

  test('issues a name again only with --force', async () => {
    const again = ['issue', 'twice.example', '--state', state, '--out'];
    await cert(...again, join(directory, 'one'));
    await expect(cert(...again, join(directory, 'two'))).rejects.toMatchObject({ code: 'CERTIFICATE_EXISTS' });
    expect(await readdir(directory)).not.toContain('two');
    await cert(...again, join(directory, 'two'), '--force');
  });

  test.each([
    ['../evil', 'CERTNAME_INVALID', []],
    ['UPPER.example', 'CERTNAME_INVALID', []],
    ['ok.example', 'EXTENSION_INVALID', ['--extension', 'pp_nonsense=1']],
    ['ok.example', 'commander.invalidArgument', ['--extension', 'pp_role']],
    ['ok.example', 'commander.invalidArgument', ['--days', '0']],
    ['ok.example', 'commander.invalidArgument', ['--days', 'many']],
  ])('refuses %s with %s %j', async (name, code, words) => {
    const out = join(directory, 'refused');
    await expect(cert('issue', name, '--out', out, '--state', state, ...words)).rejects.toMatchObject({ code });
    await expect(stat(out)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('makes no CA where there is none', async () => {
    const nowhere = join(directory, 'nowhere');
    await expect(cert('issue', 'ok.example', '--out', join(directory, 'x'), '--state', nowhere)).rejects.toMatchObject({
      code: 'CA_NOT_FOUND',
    });
    await expect(stat(nowhere)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('revoke puts every certificate of the name on the list', async () => {
    expect(await cert('revoke', 'twice.example', '--state', state)).toMatch(
      /^Revoked twice\.example: serial 0x[0-9a-f]+, serial 0x[0-9a-f]+\n$/,
    );
    await expect(cert('revoke', 'never.example', '--state', state)).rejects.toMatchObject({
      code: 'CERTIFICATE_NOT_FOUND',
    });
  });
});

describe('operator token', () => {
  test('create prints a token that works, once, and the audit tells who made it', async () => {
    const token = (await operator('token', 'create', '--role', 'deployer', '--name', 'dora', '--state', state)).trim();
    expect(token).toMatch(/^cb_[A-Za-z0-9_-]{43}$/);
    expect(said.err).not.toContain(token);
    expect(await new Tokens(database.db).identify(`Bearer ${token}`)).toEqual({
      kind: 'operator',
      name: 'dora',
      role: 'deployer',
    });
    const { rows } = await database.pool.query('select operator, action, target from audit');
    expect(rows).toEqual([
      {
        operator: expect.stringMatching(/^local:/),
        action: 'operator token create',
        target: expect.stringMatching(/^deployer dora /),
      },
    ]);
  });

  test('--save leaves what the other commands look for, for this user alone', async () => {
    const home = join(directory, 'home');
    const source = new URL('../../src/cli/operator.ts', import.meta.url).href;
    const script = `const { operatorCommand } = await import(${JSON.stringify(source)}); await operatorCommand().parseAsync(process.argv.slice(1), { from: 'user' });`;
    const words = [
      'token',
      'create',
      '--role',
      'admin',
      '--save',
      '--server',
      'https://callboard.example:8140',
      '--state',
      state,
    ];
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script, ...words], {
      env: { ...process.env, XDG_CONFIG_HOME: home },
    });
    const file = join(home, 'callboard/config.json');
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    const saved = JSON.parse(await readFile(file, 'utf8'));
    expect(saved).toEqual({
      server: 'https://callboard.example:8140',
      token: stdout.trim(),
      ca: join(home, 'callboard/ca.pem'),
    });
    expect(await readFile(saved.ca, 'utf8')).toBe(await readFile(join(state, 'ca/ca_crt.pem'), 'utf8'));
  });

  test('list shows standing and no secret; revoke works by name and by id', async () => {
    const token = (await operator('token', 'create', '--role', 'viewer', '--name', 'vera', '--state', state)).trim();
    said.out = '';
    const before = JSON.parse(await operator('token', 'list', '--json', '--state', state)) as {
      name: string;
      id: string;
    }[];
    expect(said.out).not.toContain(token.slice(3));
    said.out = '';
    expect(await operator('token', 'revoke', 'vera', '--state', state)).toContain(
      before.find((each) => each.name === 'vera')!.id,
    );
    said.out = '';
    expect(await operator('token', 'list', '--state', state)).toMatch(/vera +viewer +revoked \d+s ago/);
    expect(await new Tokens(database.db).identify(`Bearer ${token}`)).toEqual({ kind: 'anonymous' });
    await operator('token', 'revoke', before.find((each) => each.name === 'dora')!.id, '--state', state);
    await expect(operator('token', 'revoke', 'vera', '--state', state)).rejects.toMatchObject({
      code: 'TOKEN_NOT_FOUND',
    });
  });

  test.each([
    ['--role', 'king'],
    ['--role', 'admin', '--days', '0'],
  ])('refuses %s %s', async (...words) => {
    await expect(operator('token', 'create', ...words, '--state', state)).rejects.toMatchObject({
      code: 'commander.invalidArgument',
    });
  });

  test('says where the database is missing, and how to start it', async () => {
    await expect(operator('token', 'list', '--state', join(directory, 'nowhere'))).rejects.toMatchObject({
      code: 'DATABASE_UNREACHABLE',
      hint: expect.stringContaining('callboard server'),
    });
    const away = join(directory, 'away');
    await (await openCa(away)).close();
    await writeFile(join(away, 'database.json'), JSON.stringify({ url: 'postgres://x:hush@127.0.0.1:9/x' }));
    await expect(operator('token', 'list', '--state', away)).rejects.toMatchObject({
      code: 'DATABASE_UNREACHABLE',
      message: expect.not.stringContaining('hush'),
    });
  });
});
