/**
 * Certificates and revocation lists as Puppet's own CA makes them, on @peculiar/x509 and WebCrypto. Nothing here reads or
 * writes files: `ca.ts` does.
 *
 * The CA's key is RSA, which every agent ever shipped accepts. The server's and the nodes' keys are P-256: a signature at
 * each handshake then costs the server some 30 µs in place of 2 ms, which is what a herd of agents asks for at once.
 */
import 'reflect-metadata';
import { createPrivateKey, type webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  Name,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
  X509Crl,
  X509CrlGenerator,
} from '@peculiar/x509';
import { CallboardError } from '../model/errors.ts';
import { extensionName, extensionOid, isPuppetOid } from './oids.ts';

export type CryptoKey = webcrypto.CryptoKey;
type CryptoKeyPair = webcrypto.CryptoKeyPair;

const DAY_MS = 24 * 3600_000;
/** Puppet's `ca_ttl` default for certificates, and the 15 years of its own CA certificate. */
export const CERTIFICATE_DAYS = 5 * 365;
export const CA_DAYS = 15 * 365;
export const CRL_DAYS = 5 * 365;

const NETSCAPE_COMMENT = '2.16.840.1.113730.1.13';
const CRL_NUMBER = '2.5.29.20';
/** The reason that Puppet's CA gives for every revocation: keyCompromise. */
const REASON = 1;

/** A CA's key, ready to sign. */
export interface Signer {
  certificate: X509Certificate;
  key: CryptoKey;
  algorithm: { name: string; hash: string };
}

export type Extensions = Record<string, string>;

export interface IssueOptions {
  /** Puppet's certificate extensions: short names or dotted OIDs to values. */
  extensions?: Extensions;
  days?: number;
  /** Names beside the certname: DNS names and IP addresses. */
  names?: string[];
}

export async function newKeys(kind: 'ca' | 'leaf'): Promise<CryptoKeyPair> {
  const algorithm =
    kind === 'ca'
      ? { name: 'RSASSA-PKCS1-v1_5', modulusLength: 3072, publicExponent: new Uint8Array([1, 0, 1]), hash: 'SHA-256' }
      : { name: 'ECDSA', namedCurve: 'P-256' };
  return (await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as CryptoKeyPair;
}

/** A private key as PKCS#8 PEM, which OpenSSL and Puppet read. */
export async function privateKeyPem(key: CryptoKey): Promise<string> {
  const der = Buffer.from(await crypto.subtle.exportKey('pkcs8', key));
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }).export({
    format: 'pem',
    type: 'pkcs8',
  }) as string;
}

/** A CA's signer from its files, RSA or EC, in any PEM form that OpenSSL writes. */
export async function readSigner(certificatePem: string, keyPem: string): Promise<Signer> {
  const key = createPrivateKey(keyPem);
  const der = key.export({ format: 'der', type: 'pkcs8' });
  const certificate = new X509Certificate(certificatePem);
  const curves: Record<string, string> = { prime256v1: 'P-256', secp384r1: 'P-384', secp521r1: 'P-521' };
  const algorithm =
    key.asymmetricKeyType === 'ec'
      ? { name: 'ECDSA', namedCurve: curves[key.asymmetricKeyDetails?.namedCurve ?? ''] ?? 'P-256', hash: 'SHA-256' }
      : { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
  return {
    certificate,
    key: (await crypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign'])) as CryptoKey,
    algorithm: { name: algorithm.name, hash: 'SHA-256' },
  };
}

/** A self-signed CA certificate, valid from yesterday on, so that a clock that is late still accepts it. */
export async function makeCaCertificate(name: string, keys: CryptoKeyPair): Promise<X509Certificate> {
  const subject = commonName(name);
  return X509CertificateGenerator.create({
    serialNumber: '01',
    subject,
    issuer: subject,
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + CA_DAYS * DAY_MS),
    publicKey: keys.publicKey,
    signingKey: keys.privateKey,
    signingAlgorithm: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
    extensions: [
      new BasicConstraintsExtension(true, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
      await AuthorityKeyIdentifierExtension.create(keys.publicKey),
      comment('Callboard CA certificate'),
    ],
  });
}

/** A certificate for a node or for the server itself; `serial` is hexadecimal. Throws EXTENSION_INVALID. */
export async function makeCertificate(
  signer: Signer,
  serial: string,
  name: string,
  publicKey: CryptoKey,
  options: IssueOptions,
): Promise<X509Certificate> {
  const names = [...new Set([name, ...(options.names ?? [])])];
  // A caller that asks for a certificate of no length (a test) gets one that ended already.
  const notAfter = Date.now() + (options.days ?? CERTIFICATE_DAYS) * DAY_MS;
  return X509CertificateGenerator.create({
    serialNumber: serial.length % 2 ? `0${serial}` : serial,
    subject: commonName(name),
    // As it is in the CA's certificate, byte for byte: OpenSSL compares the encodings.
    issuer: signer.certificate.subjectName,
    notBefore: new Date(Math.min(Date.now(), notAfter) - DAY_MS),
    notAfter: new Date(Math.min(notAfter, signer.certificate.notAfter.getTime())),
    publicKey,
    signingKey: signer.key,
    signingAlgorithm: signer.algorithm,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth], true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature | KeyUsageFlags.keyEncipherment, true),
      await SubjectKeyIdentifierExtension.create(publicKey),
      await AuthorityKeyIdentifierExtension.create(signer.certificate.publicKey),
      new SubjectAlternativeNameExtension(names.map((value) => ({ type: isIP(value) ? 'ip' : 'dns', value }))),
      comment('Callboard certificate'),
      ...Object.entries(options.extensions ?? {}).map(([key, value]) => puppetExtension(key, value)),
    ],
  });
}

/** A revocation list with the given serials (hexadecimal) and when each was revoked, in PEM. */
export async function makeCrl(signer: Signer, number: number, revoked: Map<string, Date>): Promise<string> {
  const crl = await X509CrlGenerator.create({
    issuer: signer.certificate.subjectName,
    thisUpdate: new Date(Date.now() - DAY_MS),
    nextUpdate: new Date(Date.now() + CRL_DAYS * DAY_MS),
    entries: [...revoked].map(([serial, revocationDate]) => ({
      serialNumber: serial.length % 2 ? `0${serial}` : serial,
      revocationDate,
      reason: REASON,
    })),
    extensions: [
      await AuthorityKeyIdentifierExtension.create(signer.certificate.publicKey),
      new Extension(CRL_NUMBER, false, derInteger(number)),
    ],
    signingAlgorithm: signer.algorithm,
    signingKey: signer.key,
  });
  // The library's label is "CRL", which nobody else reads.
  return pem('X509 CRL', Buffer.from(crl.rawData));
}

export interface RevocationList {
  issuer: string;
  number: number;
  revoked: Map<string, Date>;
  nextUpdate: Date | undefined;
}

/** What a revocation list in PEM says. */
export function readCrl(text: string): RevocationList {
  const crl = new X509Crl(pemBytes(text));
  const number = crl.extensions.find((extension) => extension.type === CRL_NUMBER);
  return {
    issuer: crl.issuer,
    number: number ? Number(BigInt(`0x${Buffer.from(number.value).subarray(2).toString('hex') || '0'}`)) : 0,
    revoked: new Map(crl.entries.map((entry) => [normalSerial(entry.serialNumber), entry.revocationDate])),
    nextUpdate: crl.nextUpdate,
  };
}

/** Puppet's extensions of a certificate (DER), by the names that `trusted.extensions` uses. */
export function puppetExtensions(der: Buffer): Extensions {
  const found: Extensions = {};
  for (const extension of new X509Certificate(der).extensions) {
    if (isPuppetOid(extension.type)) found[extensionName(extension.type)] = derText(Buffer.from(extension.value));
  }
  return found;
}

/** Serials are compared in lower-case hexadecimal without leading zeros. */
export function normalSerial(hex: string): string {
  return hex.toLowerCase().replace(/^0+(?=.)/, '');
}

/** The PEM blocks of a text with the given label. */
export function pemBlocks(text: string, label: string): string[] {
  return text.match(new RegExp(`-----BEGIN ${label}-----[^-]+-----END ${label}-----\n?`, 'g')) ?? [];
}

function pem(label: string, der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

function pemBytes(text: string): Buffer {
  return Buffer.from(text.replace(/-----[^-]+-----|\s/g, ''), 'base64');
}

/** Puppet's CA writes names as UTF8Strings. */
function commonName(name: string): Name {
  return new Name([{ CN: [{ utf8String: name }] }]);
}

function comment(text: string): Extension {
  return new Extension(NETSCAPE_COMMENT, false, der(0x16, Buffer.from(text, 'latin1')));
}

/** Puppet's CA writes the values of its extensions as DER UTF8Strings. */
function puppetExtension(name: string, value: string): Extension {
  const oid = extensionOid(name);
  if (!oid) throw new CallboardError('EXTENSION_INVALID', { value: name });
  return new Extension(oid, false, der(0x0c, Buffer.from(value, 'utf8')));
}

/** DER of one value: tag, length, bytes. */
function der(tag: number, bytes: Buffer): Buffer<ArrayBuffer> {
  const length: number[] = [];
  if (bytes.length < 128) length.push(bytes.length);
  else {
    for (let rest = bytes.length; rest > 0; rest = Math.floor(rest / 256)) length.unshift(rest % 256);
    length.unshift(0x80 | length.length);
  }
  return Buffer.from([tag, ...length, ...bytes]);
}

function derInteger(value: number): Buffer<ArrayBuffer> {
  const hex = value.toString(16);
  const bytes = Buffer.from(hex.length % 2 ? `0${hex}` : hex, 'hex');
  return der(0x02, bytes[0]! & 0x80 ? Buffer.concat([Buffer.from([0]), bytes]) : bytes);
}

/** The text of a DER string. Older CAs wrote some extensions as bare text: what is no DER string is taken as it is. */
function derText(bytes: Buffer): string {
  const isString = [0x0c, 0x13, 0x16, 0x14, 0x1a].includes(bytes[0] ?? 0);
  if (!isString) return bytes.toString('utf8');
  const short = bytes[1] ?? 0;
  const start = short < 128 ? 2 : 2 + (short & 0x7f);
  const length = short < 128 ? short : Number.parseInt(bytes.subarray(2, start).toString('hex') || '0', 16);
  return start + length === bytes.length ? bytes.subarray(start).toString('utf8') : bytes.toString('utf8');
}
