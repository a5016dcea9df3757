/**
 * The embedded CA: made at first start under `<state>/ca` in the layout of Puppet's own CA directory (ca_crt.pem, ca_key.pem,
 * ca_crl.pem, serial, inventory.txt, signed/), so that a puppetserver's directory can take its place.
 *
 * Several processes may use one directory at a time: the server, and commands beside it. Whoever changes something holds
 * the kernel's lock on `<state>/ca/lock`, which ends with its holder. Every file is written beside and renamed. A serial is
 * used up before its certificate is signed, so that a crash wastes one and never gives one out twice.
 *
 * Revocation works at once: the list is a set in memory that follows the file.
 */
import { createPrivateKey, X509Certificate as NodeCertificate, randomUUID } from 'node:crypto';
import { type FSWatcher, readFileSync, statSync, watch } from 'node:fs';
import { access, appendFile, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import type { Server, ServerOptions as TlsOptions } from 'node:https';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { X509Certificate } from '@peculiar/x509';
import { execa } from 'execa';
import { CallboardError } from '../model/errors.ts';
import { type Certname, parseCertname } from '../model/ids.ts';
import { HEADER_TIME_MAX_MS } from '../model/limits.ts';
import {
  CRL_DAYS,
  type CryptoKey,
  type IssueOptions,
  makeCaCertificate,
  makeCertificate,
  newKeys,
  privateKeyPem,
  readSigner,
  type Signer,
} from './certificate.ts';
import { makeCrl, normalSerial, type RevocationList, readCrl, revocation } from './crl.ts';
import { pemBlocks } from './pem.ts';

const DAY_MS = 24 * 3600_000;
/** A server's certificate is made anew when less than this is left of it. */
const SERVER_RENEW_MS = 60 * DAY_MS;
const SERVER_DAYS = 2 * 365;
const LOCK_WAIT_MAX_S = 60;
/** How often the list's file is looked at, where the file system tells nothing. */
const CRL_LOOK_MS = 1000;
const MAINTAIN_MS = 3600_000;
/** An expired list cuts agents off, so it is signed anew when half of its time is gone. */
const CRL_LEFT_MIN_MS = (CRL_DAYS / 2) * DAY_MS;

export interface Issued {
  certname: Certname;
  /** Hexadecimal. */
  serial: string;
  certificatePem: string;
  privateKeyPem: string;
}

export interface CaOptions {
  /** False: throw CA_NOT_FOUND where there is none. */
  create?: boolean;
}

/** Opens the CA of a server's state directory, and makes it when there is none. */
export async function openCa(stateDirectory: string, options: CaOptions = {}): Promise<Ca> {
  const directory = join(stateDirectory, 'ca');
  const made = (): Promise<boolean> => exists(join(directory, 'ca_crt.pem'));
  if (!(await made())) {
    if (options.create === false) throw new CallboardError('CA_NOT_FOUND', { directory: stateDirectory });
    await mkdir(join(directory, 'signed'), { recursive: true, mode: 0o700 });
    await locked(directory, async () => {
      if (!(await made())) await createCa(directory);
    });
  }
  try {
    const certificatePem = await readFile(join(directory, 'ca_crt.pem'), 'utf8');
    const keyPem = await readFile(join(directory, 'ca_key.pem'), 'utf8');
    return new Ca(directory, certificatePem, await readSigner(pemBlocks(certificatePem, 'CERTIFICATE')[0]!, keyPem));
  } catch (error) {
    if (error instanceof CallboardError) throw error;
    throw new CallboardError('CA_DAMAGED', { directory, reason: (error as Error).message }, { cause: error });
  }
}

export class Ca {
  readonly directory: string;
  /** The CA's certificate; where it is not self-signed, followed by those above it. */
  readonly certificatePem: string;
  readonly #certificate: NodeCertificate;
  readonly #signer: Signer;
  readonly #crlFile: string;
  #revoked = new Set<string>();
  #crlStamp = '';
  #watcher: FSWatcher | undefined;
  #timers: NodeJS.Timeout[] = [];

  constructor(directory: string, certificatePem: string, signer: Signer) {
    this.directory = directory;
    this.certificatePem = certificatePem;
    this.#certificate = new NodeCertificate(certificatePem);
    this.#signer = signer;
    this.#crlFile = join(directory, 'ca_crl.pem');
    // Here a list that cannot be read throws: a CA that starts without knowing whom it revoked would let them all in.
    this.#revoked = new Set(this.#ownCrl().entries.keys());
  }

  /**
   * A new key and its certificate. Issuing a name again leaves its older certificates valid; with `onlyNew` it throws
   * CERTIFICATE_EXISTS instead.
   */
  async issue(certname: string, options: IssueOptions & { onlyNew?: boolean } = {}): Promise<Issued> {
    return (await this.issueAll([certname], options))[0]!;
  }

  /** Many at once, under one lock. */
  async issueAll(certnames: string[], options: IssueOptions & { onlyNew?: boolean } = {}): Promise<Issued[]> {
    const leaves = await Promise.all(
      certnames.map(async (certname) => ({ name: parseCertname(certname), keys: await newKeys('leaf') })),
    );
    const wanted = leaves.map(({ name, keys }) => ({ name, publicKey: keys.publicKey }));
    const signed = await this.#sign(wanted, options);
    return Promise.all(
      leaves.map(async ({ name, keys }, index) => ({
        certname: name,
        ...signed[index]!,
        privateKeyPem: await privateKeyPem(keys.privateKey),
      })),
    );
  }

  /** The certificate last issued for a name, or undefined. */
  async issued(certname: Certname): Promise<string | undefined> {
    return readFile(this.#signedFile(certname), 'utf8').catch(() => undefined);
  }

  /** Puts every certificate that was issued to a name on the list. Throws CERTIFICATE_NOT_FOUND. */
  async revoke(certname: string): Promise<string[]> {
    const name = parseCertname(certname);
    return locked(this.directory, async () => {
      const inventory = await readFile(join(this.directory, 'inventory.txt'), 'utf8').catch(() => '');
      const serials = inventory
        .split('\n')
        .map((line) => line.trim().split(/\s+/))
        .filter((fields) => fields[3] === `/CN=${name}`)
        .map((fields) => normalSerial(fields[0]!.replace(/^0x/i, '')));
      if (serials.length === 0) throw new CallboardError('CERTIFICATE_NOT_FOUND', { certname: name });
      await this.#writeCrl(serials);
      return serials;
    });
  }

  /** Whether this CA, and not one above or beside it, signed a certificate. */
  signed(certificate: NodeCertificate): boolean {
    return certificate.checkIssued(this.#certificate);
  }

  /** Whether a serial (hexadecimal, normal form) is on the list. */
  isRevoked(serial: string): boolean {
    return this.#revoked.has(serial);
  }

  crlPem(): string {
    return readFileSync(this.#crlFile, 'utf8');
  }

  /**
   * What the server's TLS needs: its certificate, made anew when it nears its end or lacks a name, and the wish to see the
   * client's. `names` are the names and addresses that clients use, the first one being the server's own.
   */
  async tlsOptions(names: string[] = []): Promise<TlsOptions> {
    const all = [...new Set([...names, hostname().toLowerCase(), 'puppet', 'localhost', '127.0.0.1', '::1'])];
    const certificateFile = join(this.directory, 'server_crt.pem');
    const keyFile = join(this.directory, 'server_key.pem');
    const read = async (): Promise<{ cert: string; key: string } | undefined> => {
      const cert = await readFile(certificateFile, 'utf8').catch(() => '');
      const key = await readFile(keyFile, 'utf8').catch(() => '');
      return serverCertificateServes(cert, key, this.certificatePem, all) ? { cert, key } : undefined;
    };
    const name = /^[a-z0-9][a-z0-9._-]*$/.test(all[0]!) ? all[0]! : 'callboard';
    const pair = (await read()) ?? (await this.#makeServerCertificate(name, all, certificateFile, keyFile));
    return {
      cert: pair.cert,
      key: pair.key,
      ca: pemBlocks(this.certificatePem, 'CERTIFICATE'),
      minVersion: 'TLSv1.2',
      requestCert: true,
      // Nodes without a certificate must reach the CA; whoever has none is anonymous, and no route is open to that.
      rejectUnauthorized: false,
      // Stock agents and ours talk to us over long-lived connections; the sessions of those that do not are worth resuming.
      sessionTimeout: 3600,
      handshakeTimeout: HEADER_TIME_MAX_MS,
    };
  }

  /**
   * Follows the list's file, and renews the list and the server's certificate while the server runs. `warn` hears of renewals
   * that failed; they are tried again an hour later.
   */
  maintain(options: { server?: Server; names?: string[]; warn?: (error: Error) => void } = {}): void {
    const { server, names, warn } = options;
    try {
      this.#watcher = watch(this.directory, (_, file) => {
        if (file === null || file === 'ca_crl.pem') this.#readRevoked();
      });
      this.#watcher.on('error', () => {});
      this.#watcher.unref();
    } catch {
      // No notifications on this file system: the timer looks.
    }
    this.#timers.push(setInterval(() => this.#readRevoked(), CRL_LOOK_MS).unref());
    const renew = async (): Promise<void> => {
      await this.renewCrl();
      server?.setSecureContext(await this.tlsOptions(names));
    };
    this.#timers.push(setInterval(() => renew().catch((error) => warn?.(error)), MAINTAIN_MS).unref());
  }

  /** Signs the list anew when half of its time is gone. */
  async renewCrl(): Promise<boolean> {
    const { nextUpdate } = this.#ownCrl();
    const left = (nextUpdate?.getTime() ?? 0) - Date.now();
    if (left > CRL_LEFT_MIN_MS) return false;
    await locked(this.directory, () => this.#writeCrl([]));
    return true;
  }

  close(): void {
    this.#watcher?.close();
    for (const timer of this.#timers) clearInterval(timer);
    this.#timers = [];
  }

  #signedFile(name: string): string {
    return join(this.directory, 'signed', `${name}.pem`);
  }

  async #sign(
    wanted: { name: string; publicKey: CryptoKey }[],
    options: IssueOptions & { onlyNew?: boolean },
  ): Promise<{ serial: string; certificatePem: string }[]> {
    return locked(this.directory, async () => {
      if (options.onlyNew) {
        for (const { name } of wanted) {
          if (await exists(this.#signedFile(name))) throw new CallboardError('CERTIFICATE_EXISTS', { certname: name });
        }
      }
      const first = await takeSerials(this.directory, wanted.length);
      const certificates = await Promise.all(
        wanted.map(({ name, publicKey }, index) =>
          makeCertificate(this.#signer, (first + BigInt(index)).toString(16), name, publicKey, options),
        ),
      );
      const lines = certificates.map((certificate, index) => inventoryLine(certificate, wanted[index]!.name));
      await appendFile(join(this.directory, 'inventory.txt'), lines.join(''));
      const signed: { serial: string; certificatePem: string }[] = [];
      for (const [index, certificate] of certificates.entries()) {
        const certificatePem = `${certificate.toString('pem')}\n`;
        await replaceFile(this.#signedFile(wanted[index]!.name), certificatePem, 0o644);
        signed.push({ serial: normalSerial(certificate.serialNumber), certificatePem });
      }
      return signed;
    });
  }

  async #makeServerCertificate(
    name: string,
    names: string[],
    certificateFile: string,
    keyFile: string,
  ): Promise<{ cert: string; key: string }> {
    const keys = await newKeys('leaf');
    const key = await privateKeyPem(keys.privateKey);
    const wanted = [{ name, publicKey: keys.publicKey }];
    const { certificatePem } = (await this.#sign(wanted, { names, days: SERVER_DAYS }))[0]!;
    const chain = pemBlocks(this.certificatePem, 'CERTIFICATE').slice(0, -1).join('');
    // A crash between the two leaves a pair that does not match, which the next start sees and makes anew.
    await replaceFile(keyFile, key, 0o600);
    await replaceFile(certificateFile, certificatePem + chain, 0o644);
    return { cert: certificatePem + chain, key };
  }

  #lists(): RevocationList[] {
    return pemBlocks(this.crlPem(), 'X509 CRL').map(readCrl);
  }

  #ownCrl(): RevocationList {
    const own = this.#lists().find((list) => list.issuer.equals(this.#signer.name));
    if (own) return own;
    throw new CallboardError('CA_DAMAGED', { directory: this.directory, reason: 'ca_crl.pem has no list of its own' });
  }

  /** Under the lock: the list with `serials` added. Lists of other CAs in the file stay as they are. */
  async #writeCrl(serials: string[]): Promise<void> {
    const { number, entries } = this.#ownCrl();
    for (const serial of serials) if (!entries.has(serial)) entries.set(serial, revocation(serial, new Date()));
    const own = signList(this.#signer, number + 1n, entries);
    const others = pemBlocks(this.crlPem(), 'X509 CRL').filter(
      (block) => !readCrl(block).issuer.equals(this.#signer.name),
    );
    await replaceFile(this.#crlFile, own + others.join(''), 0o644);
    this.#readRevoked();
  }

  #readRevoked(): void {
    try {
      const { mtimeMs, ino, size } = statSync(this.#crlFile);
      const stamp = `${ino}:${mtimeMs}:${size}`;
      if (stamp === this.#crlStamp) return;
      this.#revoked = new Set(this.#ownCrl().entries.keys());
      this.#crlStamp = stamp;
    } catch {
      // A list that cannot be read changes nothing: what is revoked stays revoked.
    }
  }
}

async function createCa(directory: string): Promise<void> {
  const keys = await newKeys('ca');
  const name = `Callboard CA: ${hostname().toLowerCase()}`;
  const certificate = await makeCaCertificate(name, keys);
  const key = await privateKeyPem(keys.privateKey);
  const pem = `${certificate.toString('pem')}\n`;
  const signer = await readSigner(pem, key);
  await replaceFile(join(directory, 'ca_key.pem'), key, 0o600);
  await replaceFile(join(directory, 'ca_crl.pem'), signList(signer, 0n, new Map()), 0o644);
  await replaceFile(join(directory, 'serial'), '0002\n', 0o644);
  await replaceFile(join(directory, 'inventory.txt'), inventoryLine(certificate, name), 0o644);
  // Last: with it the CA exists.
  await replaceFile(join(directory, 'ca_crt.pem'), pem, 0o644);
}

/** Valid from yesterday on, so that a node whose clock is late takes it. */
function signList(signer: Signer, number: bigint, entries: Map<string, Buffer>): string {
  const now = Date.now();
  const nextUpdate = new Date(now + CRL_DAYS * DAY_MS);
  return makeCrl(signer, { number, thisUpdate: new Date(now - DAY_MS), nextUpdate, entries });
}

/** Under the lock: the first of `count` serials that are ours, from the file `serial`, which Puppet keeps in hexadecimal. */
async function takeSerials(directory: string, count: number): Promise<bigint> {
  const file = join(directory, 'serial');
  const first = BigInt(`0x${(await readFile(file, 'utf8')).trim()}`);
  await replaceFile(file, `${inventorySerial(first + BigInt(count))}\n`, 0o644);
  return first;
}

/** As Puppet writes serials: upper-case hexadecimal, four digits at least. */
function inventorySerial(serial: bigint): string {
  return serial.toString(16).toUpperCase().padStart(4, '0');
}

function inventoryLine(certificate: X509Certificate, name: string): string {
  const serial = inventorySerial(BigInt(`0x${certificate.serialNumber}`));
  return `0x${serial} ${inventoryTime(certificate.notBefore)} ${inventoryTime(certificate.notAfter)} /CN=${name}\n`;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

function inventoryTime(time: Date): string {
  return `${time.toISOString().slice(0, 19)}UTC`;
}

function serverCertificateServes(cert: string, key: string, caPem: string, names: string[]): boolean {
  try {
    const certificate = new NodeCertificate(cert);
    const ca = new NodeCertificate(caPem);
    const matches = (name: string): boolean =>
      certificate.checkHost(name) !== undefined || certificate.checkIP(name) !== undefined;
    return (
      certificate.verify(ca.publicKey) &&
      certificate.checkPrivateKey(createPrivateKey(key)) &&
      Date.parse(certificate.validTo) - Date.now() > SERVER_RENEW_MS &&
      names.every(matches)
    );
  } catch {
    return false;
  }
}

async function replaceFile(path: string, text: string, mode: number): Promise<void> {
  const beside = `${path}.${randomUUID()}`;
  try {
    const file = await open(beside, 'wx', mode);
    try {
      await writeFile(file, text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
}

/**
 * Runs `work` while no other process, and nobody else in this one, changes the directory. flock(1) locks the file that we
 * opened, so the lock is ours until we close it, or die.
 */
async function locked<Result>(directory: string, work: () => Promise<Result>): Promise<Result> {
  const file = await open(join(directory, 'lock'), 'a', 0o600);
  try {
    const { exitCode } = await execa('flock', ['-x', '-w', String(LOCK_WAIT_MAX_S), '0'], {
      // Any descriptor will do; the types know the first three.
      stdin: file.fd as 0,
      reject: false,
    });
    if (exitCode !== 0)
      throw new CallboardError('BUSY', { reason: `'${directory}' could not be locked with flock(1)` });
    return await work();
  } finally {
    await file.close();
  }
}
