/**
 * Certificates as Puppet's own CA makes them, on @peculiar/x509 and WebCrypto. Nothing here reads or
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
} from '@peculiar/x509';
import { CallboardError } from '../model/errors.ts';
import type { CrlSigner } from './crl.ts';
import { der, derChildren, derContent, derWhole, IA5_STRING, readDer, UTF8_STRING } from './der.ts';
import { extensionName, extensionOid, isPuppetOid } from './oids.ts';

export type CryptoKey = webcrypto.CryptoKey;
type CryptoKeyPair = webcrypto.CryptoKeyPair;

const DAY_MS = 24 * 3600_000;
/** Puppet's `ca_ttl` default for certificates, and the 15 years of its own CA certificate. */
export const CERTIFICATE_DAYS = 5 * 365;
export const CA_DAYS = 15 * 365;
export const CRL_DAYS = 5 * 365;

const NETSCAPE_COMMENT = '2.16.840.1.113730.1.13';

/** A CA's key, ready to sign. */
export interface Signer extends CrlSigner {
  certificate: X509Certificate;
  signingKey: CryptoKey;
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
    name: subjectOf(Buffer.from(certificate.rawData)),
    keyId: await keyIdOf(certificate),
    key,
    signingKey: (await crypto.subtle.importKey('pkcs8', der, algorithm, false, ['sign'])) as CryptoKey,
    algorithm: { name: algorithm.name, hash: 'SHA-256' },
  };
}

/** The DER of a certificate's subject, as it is: OpenSSL compares the bytes of names. */
function subjectOf(certificate: Buffer): Buffer {
  const [tbs] = derChildren(readDer(certificate));
  const fields = derChildren(tbs!);
  // Behind a version that version 1 leaves out: serial, algorithm, issuer, validity, subject.
  return derWhole(fields[fields[0]!.tag === 0xa0 ? 5 : 4]!);
}

/** The identifier that a certificate gives its key; where it gives none, the usual one. */
async function keyIdOf(certificate: X509Certificate): Promise<Buffer> {
  const own = certificate.getExtension(SubjectKeyIdentifierExtension);
  return Buffer.from(own?.keyId ?? (await SubjectKeyIdentifierExtension.create(certificate.publicKey)).keyId, 'hex');
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
    signingKey: signer.signingKey,
    signingAlgorithm: signer.algorithm,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth], true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature | KeyUsageFlags.keyEncipherment, true),
      await SubjectKeyIdentifierExtension.create(publicKey),
      new AuthorityKeyIdentifierExtension(signer.keyId.toString('hex')),
      new SubjectAlternativeNameExtension(names.map((value) => ({ type: isIP(value) ? 'ip' : 'dns', value }))),
      comment('Callboard certificate'),
      ...Object.entries(options.extensions ?? {}).map(([key, value]) => puppetExtension(key, value)),
    ],
  });
}

/** Puppet's extensions of a certificate (DER), by the names that `trusted.extensions` uses. */
export function puppetExtensions(der: Buffer): Extensions {
  const found: Extensions = {};
  for (const extension of new X509Certificate(der).extensions) {
    if (isPuppetOid(extension.type)) found[extensionName(extension.type)] = derText(Buffer.from(extension.value));
  }
  return found;
}

/** Puppet's CA writes names as UTF8Strings. */
function commonName(name: string): Name {
  return new Name([{ CN: [{ utf8String: name }] }]);
}

function comment(text: string): Extension {
  return new Extension(NETSCAPE_COMMENT, false, der(IA5_STRING, Buffer.from(text, 'latin1')));
}

/** Puppet's CA writes the values of its extensions as DER UTF8Strings. */
function puppetExtension(name: string, value: string): Extension {
  const oid = extensionOid(name);
  if (!oid) throw new CallboardError('EXTENSION_INVALID', { value: name });
  return new Extension(oid, false, der(UTF8_STRING, Buffer.from(value, 'utf8')));
}

/** The text of a DER string. Older CAs wrote some extensions as bare text: what is no DER string is taken as it is. */
function derText(bytes: Buffer): string {
  if (!STRINGS.includes(bytes[0] ?? 0)) return bytes.toString('utf8');
  try {
    const value = readDer(bytes);
    return (value.end === bytes.length ? derContent(value) : bytes).toString('utf8');
  } catch {
    return bytes.toString('utf8');
  }
}

/** UTF8String, PrintableString, TeletexString, IA5String, VisibleString. */
const STRINGS = [0x0c, 0x13, 0x14, 0x16, 0x1a];
