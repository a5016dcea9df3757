/** The embedded CA, judged by OpenSSL and by Puppet, not by the library that made it. */
import { execFile } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { execa } from 'execa';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Ca, openCa } from '../../src/http/ca.ts';
import { puppetExtensions, readSigner } from '../../src/http/certificate.ts';
import { makeCrl, readCrl, revocation } from '../../src/http/crl.ts';

const run = promisify(execFile);

// Other programs are started here, and a machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let state: string;
let ca: Ca;
beforeAll(async () => {
  state = await mkdtemp(join(tmpdir(), 'callboard-ca-'));
  ca = await openCa(state);
});
afterAll(async () => {
  ca.close();
  await rm(state, { recursive: true });
});

const caFile = (name: string) => join(state, 'ca', name);
const verify = (file: string) =>
  run('openssl', [
    'verify',
    '-x509_strict',
    '-crl_check',
    '-purpose',
    'sslclient',
    '-CAfile',
    caFile('ca_crt.pem'),
    '-CRLfile',
    caFile('ca_crl.pem'),
    file,
  ]);
const text = async (file: string) => (await run('openssl', ['x509', '-in', file, '-noout', '-text'])).stdout;
const inventory = async () => (await readFile(caFile('inventory.txt'), 'utf8')).trim().split('\n');

test("has Puppet's files, and keeps its keys to itself", async () => {
  const names = await readdir(caFile('.'));
  for (const name of ['ca_crt.pem', 'ca_key.pem', 'ca_crl.pem', 'serial', 'inventory.txt', 'signed'])
    expect(names).toContain(name);
  expect((await stat(caFile('ca_key.pem'))).mode & 0o777).toBe(0o600);
  expect((await stat(caFile('.'))).mode & 0o077).toBe(0);
  expect(await readFile(caFile('serial'), 'utf8')).toMatch(/^[0-9A-F]{4}\n$/);
  expect((await inventory())[0]).toMatch(
    /^0x0001 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dUTC \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dUTC \/CN=Callboard CA: /,
  );
  const said = await text(caFile('ca_crt.pem'));
  expect(said).toMatch(/Basic Constraints: critical\s+CA:TRUE/);
  expect(said).toMatch(/Key Usage: critical\s+Certificate Sign, CRL Sign/);
  expect(said).toMatch(/Public-Key: \(3072 bit\)/);
});

test('issues what OpenSSL verifies strictly, with the extensions that Puppet gives', async () => {
  const issued = await ca.issue('web1.example', {
    extensions: { pp_role: 'wéb', '1.3.6.1.4.1.34380.1.2.7': 'x'.repeat(300) },
  });
  const file = caFile('signed/web1.example.pem');
  expect(await readFile(file, 'utf8')).toBe(issued.certificatePem);
  await verify(file);
  const said = await text(file);
  expect(said).toMatch(/Subject: CN = web1\.example\n/);
  expect(said).toMatch(/Basic Constraints: critical\s+CA:FALSE/);
  expect(said).toMatch(/Extended Key Usage: critical\s+TLS Web Server Authentication, TLS Web Client Authentication/);
  expect(said).toMatch(/Key Usage: critical\s+Digital Signature, Key Encipherment/);
  expect(said).toMatch(/Subject Alternative Name: \s+DNS:web1\.example\n/);
  const { stdout } = await run('openssl', ['asn1parse', '-in', file]);
  expect(stdout).toContain('1.3.6.1.4.1.34380.1.1.13');
  // A UTF8String (tag 0x0C) of 4 bytes.
  expect(stdout).toContain('[HEX DUMP]:0C0477C3A962');
  const certificate = new X509Certificate(issued.certificatePem);
  expect(puppetExtensions(certificate.raw)).toEqual({ pp_role: 'wéb', '1.3.6.1.4.1.34380.1.2.7': 'x'.repeat(300) });
  expect((await inventory()).at(-1)).toMatch(new RegExp(`^0x0*${issued.serial.toUpperCase()} .* /CN=web1\\.example$`));
});

test("is accepted by Puppet's own reader of certificates and keys", async () => {
  const { certificatePem, privateKeyPem } = await ca.issue('node1.example', { extensions: { pp_role: 'db' } });
  const ssl = join(state, 'puppet');
  await mkdir(join(ssl, 'ssl/certs'), { recursive: true });
  await mkdir(join(ssl, 'ssl/private_keys'), { recursive: true });
  await writeFile(join(ssl, 'ssl/certs/ca.pem'), ca.certificatePem);
  await writeFile(join(ssl, 'ssl/crl.pem'), ca.crlPem());
  await writeFile(join(ssl, 'ssl/certs/node1.example.pem'), certificatePem);
  await writeFile(join(ssl, 'ssl/private_keys/node1.example.pem'), privateKeyPem);
  const { stdout } = await execa('puppet', [
    'ssl',
    'verify',
    '--certname',
    'node1.example',
    '--confdir',
    ssl,
    '--vardir',
    join(ssl, 'var'),
    '--ssldir',
    join(ssl, 'ssl'),
  ]);
  expect(stdout).toContain("Verified client certificate 'CN=node1.example'");
});

test('refuses names and extensions that are none', async () => {
  for (const name of ['', '../evil', 'Web1', 'a..b', 'a b', 'a\nb', 'x'.repeat(300), '-a']) {
    await expect(ca.issue(name)).rejects.toMatchObject({ code: 'CERTNAME_INVALID' });
  }
  for (const extension of ['pp_roll', '1.2.3', '2.5.29.19', '1.3.6.1.4.1.34380.1.1.', '1.3.6.1.4.1.34380.1.9.1']) {
    await expect(ca.issue('web2.example', { extensions: { [extension]: 'x' } })).rejects.toMatchObject({
      code: 'EXTENSION_INVALID',
    });
  }
});

test('issues a name a second time only to those who do not ask for a new one', async () => {
  await ca.issue('again.example');
  await expect(ca.issue('again.example', { onlyNew: true })).rejects.toMatchObject({ code: 'CERTIFICATE_EXISTS' });
  const second = await ca.issue('again.example');
  expect(await ca.issued(second.certname)).toBe(second.certificatePem);
});

test('gives each serial once while several processes and many callers issue, and the first of them make the CA', {
  timeout: 120_000,
}, async () => {
  const fresh = await mkdtemp(join(tmpdir(), 'callboard-ca-'));
  const source = new URL('../../src/http/ca.ts', import.meta.url).href;
  const script = `
    const { openCa } = await import(${JSON.stringify(source)});
    const ca = await openCa(process.argv[1]);
    await Promise.all(Array.from({ length: 5 }, (_, n) => ca.issue('p' + process.argv[2] + '-' + n)));
    await ca.revoke('p' + process.argv[2] + '-0');
  `;
  await Promise.all(
    [1, 2, 3].map((n) => run(process.execPath, ['--input-type=module', '-e', script, fresh, String(n)])),
  );
  const lines = (await readFile(join(fresh, 'ca/inventory.txt'), 'utf8')).trim().split('\n');
  const serials = lines.map((line) => line.split(' ')[0]);
  expect(serials.length).toBe(1 + 15);
  expect(new Set(serials).size).toBe(serials.length);
  // Nobody's revocation was lost to somebody else's.
  const list = readCrl(await readFile(join(fresh, 'ca/ca_crl.pem'), 'utf8'));
  expect(list.entries.size).toBe(3);
  expect((await readdir(join(fresh, 'ca'))).filter((name) => /[0-9a-f]{8}-/.test(name))).toEqual([]);
  await rm(fresh, { recursive: true });
});

describe('revocation', () => {
  test('is on a list that OpenSSL reads, with a number that grows and every certificate of the name', async () => {
    const first = await ca.issue('gone.example');
    const second = await ca.issue('gone.example');
    const before = readCrl(ca.crlPem()).number;
    expect((await ca.revoke('gone.example')).sort()).toEqual([first.serial, second.serial].sort());
    expect(ca.isRevoked(first.serial) && ca.isRevoked(second.serial)).toBe(true);
    expect(readCrl(ca.crlPem()).number).toBe(before + 1n);
    await expect(verify(caFile('signed/gone.example.pem'))).rejects.toMatchObject({
      stderr: expect.stringContaining('certificate revoked'),
    });
    await verify(caFile('signed/web1.example.pem'));
    const { stdout, stderr } = await run('openssl', [
      'crl',
      '-in',
      caFile('ca_crl.pem'),
      '-noout',
      '-text',
      '-CAfile',
      caFile('ca_crt.pem'),
    ]);
    expect(stderr).toContain('verify OK');
    expect(stdout).toContain('Version 2');
    expect(readCrl(ca.crlPem()).nextUpdate!.getTime()).toBeGreaterThan(Date.now() + 4 * 365 * 86_400_000);
  });

  test('by another process is noticed within a second', async () => {
    const { serial } = await ca.issue('elsewhere.example');
    ca.maintain();
    const other = await openCa(state, { create: false });
    await other.revoke('elsewhere.example');
    await vi.waitFor(() => expect(ca.isRevoked(serial)).toBe(true), { timeout: 5000, interval: 10 });
  });

  test('of a name that was never signed is refused', async () => {
    await expect(ca.revoke('nobody.example')).rejects.toMatchObject({ code: 'CERTIFICATE_NOT_FOUND' });
    // Not even by a name that ends like a signed one.
    await expect(ca.revoke('example')).rejects.toMatchObject({ code: 'CERTIFICATE_NOT_FOUND' });
  });

  test('survives a list that cannot be read, and does not start without one', async () => {
    const damaged = await mkdtemp(join(tmpdir(), 'callboard-ca-'));
    const one = await openCa(damaged);
    const { serial } = await one.issue('a');
    await one.revoke('a');
    one.maintain();
    await writeFile(join(damaged, 'ca/ca_crl.pem'), 'nonsense');
    await new Promise((done) => setTimeout(done, 1200));
    expect(one.isRevoked(serial)).toBe(true);
    await expect(openCa(damaged)).rejects.toMatchObject({ code: 'CA_DAMAGED' });
    one.close();
    await rm(damaged, { recursive: true });
  });
});

describe("the server's certificate", () => {
  test('names everything that clients call it, and is kept from start to start', async () => {
    const first = await ca.tlsOptions(['callboard.example', '192.0.2.7']);
    const certificate = new X509Certificate(first.cert as string);
    for (const name of ['callboard.example', 'localhost', 'puppet']) expect(certificate.checkHost(name)).toBe(name);
    for (const address of ['127.0.0.1', '::1', '192.0.2.7']) expect(certificate.checkIP(address)).toBe(address);
    await verify(caFile('server_crt.pem'));
    expect((await stat(caFile('server_key.pem'))).mode & 0o777).toBe(0o600);
    expect((await ca.tlsOptions(['callboard.example'])).cert).toBe(first.cert);
  });

  test('is made anew for a new name, near its end, and where its key is not its own', async () => {
    const old = (await ca.tlsOptions(['callboard.example'])).cert;
    const renamed = (await ca.tlsOptions(['other.example'])).cert as string;
    expect(renamed).not.toBe(old);
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + (2 * 365 - 30) * 86_400_000 });
    const renewed = (await ca.tlsOptions(['other.example'])).cert as string;
    vi.useRealTimers();
    expect(renewed).not.toBe(renamed);
    const { privateKeyPem } = await ca.issue('stranger.example');
    await writeFile(caFile('server_key.pem'), privateKeyPem);
    const mended = await ca.tlsOptions(['other.example']);
    expect(mended.cert).not.toBe(renewed);
    expect(new X509Certificate(mended.cert as string).subject).toBe('CN=other.example');
  });
});

test('the list is signed anew when half of its time is gone, and not before', async () => {
  expect(await ca.renewCrl()).toBe(false);
  const revoked = readCrl(ca.crlPem()).entries.size;
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 3 * 365 * 86_400_000 });
  expect(await ca.renewCrl()).toBe(true);
  vi.useRealTimers();
  expect(readCrl(ca.crlPem()).entries.size).toBe(revoked);
});

test('does not make a CA for those who only look for one', async () => {
  const empty = await mkdtemp(join(tmpdir(), 'callboard-ca-'));
  await expect(openCa(empty, { create: false })).rejects.toMatchObject({ code: 'CA_NOT_FOUND' });
  expect(await readdir(empty)).toEqual([]);
  await rm(empty, { recursive: true });
});

/**
 * As an old puppetserver leaves it: a PKCS#1 key, names in PrintableStrings, a key identifier that is not the usual hash, a
 * bundle with the root above, lists of both CAs, and an entry whose reason is its own.
 */
test.each(['rsa', 'ec'])('works on with the files of another CA: an intermediate one with an %s key', async (kind) => {
  const foreign = await mkdtemp(join(tmpdir(), 'callboard-ca-'));
  const at = (name: string) => join(foreign, 'ca', name);
  await mkdir(at('signed'), { recursive: true });
  const openssl = (command: string) => run('openssl', command.split(' '), { cwd: at('.') });
  const read = (name: string) => readFile(at(name), 'utf8');
  const write = (name: string, text: string) => writeFile(at(name), text);
  for (const file of ['root.key', 'ca_key.pem']) {
    await openssl(
      kind === 'rsa' ? `genrsa -traditional -out ${file} 2048` : `ecparam -name prime256v1 -genkey -noout -out ${file}`,
    );
  }
  const usage = 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n';
  await write(
    'openssl.cnf',
    `[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=3650\ncrlnumber=crlnumber\ncrl_extensions=crl
[crl]\nauthorityKeyIdentifier=keyid
[req]\nstring_mask=default\ndistinguished_name=dn\nx509_extensions=root\n[dn]\n[root]\n${usage}subjectKeyIdentifier=hash
[own]\n${usage}subjectKeyIdentifier=00:DE:AD:BE:EF\nauthorityKeyIdentifier=keyid\n`,
  );
  await write('index.txt', '');
  await write('crlnumber', 'FE\n');
  await openssl('req -config openssl.cnf -x509 -new -key root.key -subj /CN=Root -days 3650 -out root.pem');
  await openssl('req -config openssl.cnf -new -key ca_key.pem -subj /O=Site/CN=Puppet.CA.old -out ca.csr');
  await openssl(
    'x509 -req -in ca.csr -CA root.pem -CAkey root.key -set_serial 7 -days 3650 -extfile openssl.cnf -extensions own -out own.pem',
  );
  await openssl('ca -config openssl.cnf -gencrl -keyfile root.key -cert root.pem -out root_crl.pem');
  await write('index.txt', 'R\t351231000000Z\t200101000000Z,superseded\t0A\tunknown\t/CN=long.gone\n');
  await openssl('ca -config openssl.cnf -gencrl -keyfile ca_key.pem -cert own.pem -out own_crl.pem');
  await write('ca_crt.pem', (await read('own.pem')) + (await read('root.pem')));
  await write('ca_crl.pem', (await read('own_crl.pem')) + (await read('root_crl.pem')));
  await write('serial', '00FF');
  await write('inventory.txt', '');
  expect((await openssl('asn1parse -in own.pem')).stdout).toMatch(/PRINTABLESTRING +:Puppet\.CA\.old/);

  const old = await openCa(foreign, { create: false });
  expect(old.isRevoked('a')).toBe(true);
  const issued = await old.issue('web1.example');
  expect(issued.serial).toBe('ff');
  expect(await read('serial')).toBe('0100\n');
  const check = 'verify -x509_strict -crl_check_all -CAfile ca_crt.pem -CRLfile ca_crl.pem signed/web1.example.pem';
  await openssl(check);
  await old.revoke('web1.example');
  expect(old.isRevoked('ff') && old.isRevoked('a')).toBe(true);
  await expect(openssl(check)).rejects.toMatchObject({ stderr: expect.stringContaining('certificate revoked') });
  expect((await read('ca_crl.pem')).match(/BEGIN X509 CRL/g)).toHaveLength(2);
  const { stdout, stderr } = await openssl('crl -in ca_crl.pem -noout -text -CAfile ca_crt.pem');
  expect(stderr).toContain('verify OK');
  expect(stdout).toMatch(/CRL Number: \s+256\n/);
  expect(stdout).toMatch(
    /Serial Number: 0A\s+Revocation Date: Jan {2}1 00:00:00 2020 GMT\s+CRL entry extensions:\s+X509v3 CRL Reason Code: \s+Superseded/,
  );
  const { cert } = await old.tlsOptions();
  expect(String(cert).match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
  await openssl('verify -x509_strict -CAfile ca_crt.pem server_crt.pem');
  old.close();
  await rm(foreign, { recursive: true });
});

test('a list of 20,000 is read and written in the time of a request', async () => {
  const signer = await readSigner(ca.certificatePem, await readFile(caFile('ca_key.pem'), 'utf8'));
  const at = new Date('2024-02-29T12:34:56Z');
  const entries = new Map(
    Array.from({ length: 20_000 }, (_, n) => [(n * 7919 + 1).toString(16), at] as const).map(([serial, time]) => [
      serial,
      revocation(serial, time),
    ]),
  );
  const before = process.cpuUsage();
  const text = makeCrl(signer, { number: 5n, thisUpdate: at, nextUpdate: new Date('2051-01-01T00:00:00Z'), entries });
  const list = readCrl(text);
  const { user, system } = process.cpuUsage(before);
  expect(list.entries).toEqual(entries);
  expect(list.number).toBe(5n);
  expect(list.nextUpdate).toEqual(new Date('2051-01-01T00:00:00Z'));
  expect((user + system) / 1000).toBeLessThan(1000);
  const file = join(state, 'large.pem');
  await writeFile(file, text);
  const { stdout } = await run('openssl', ['crl', '-in', file, '-noout', '-text', '-CAfile', caFile('ca_crt.pem')], {
    maxBuffer: 2 ** 26,
  });
  expect(stdout.match(/Serial Number: /g)).toHaveLength(20_000);
  expect(stdout).toContain('Next Update: Jan  1 00:00:00 2051 GMT');
  expect(stdout).toContain('Revocation Date: Feb 29 12:34:56 2024 GMT');
});

test('what is no list is refused, and never read past its end', () => {
  const real = Buffer.from(ca.crlPem().replace(/-----[^-]+-----/g, ''), 'base64');
  const damaged = fc.tuple(fc.nat(real.length - 1), fc.nat(255), fc.nat(real.length)).map(([at, value, end]) => {
    const bytes = Buffer.from(real);
    bytes[at] = value;
    return bytes.subarray(0, end);
  });
  fc.assert(
    fc.property(
      fc.oneof(
        damaged,
        fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
      ),
      (bytes) => {
        try {
          expect(readCrl(bytes.toString('base64')).entries.size).toBeLessThan(1000);
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect((error as Error).name).not.toBe('AssertionError');
        }
      },
    ),
  );
});
