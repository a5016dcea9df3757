/**
 * Revocation lists, read and written as bytes. The certificate library makes objects of every field of every entry, some
 * hundreds of microseconds apiece, and refuses lists of some thousands; a site that revoked for ten years has more. Here
 * entries that were there stay as they are, byte for byte.
 */
import { type KeyObject, sign } from 'node:crypto';
import {
  BIT_STRING,
  type DerValue,
  der,
  derChildren,
  derContent,
  derInteger,
  derTime,
  derWhole,
  ENUMERATED,
  GENERALIZED_TIME,
  INTEGER,
  NULL,
  OCTET_STRING,
  OID,
  readDer,
  readDerTime,
  SEQUENCE,
  UTC_TIME,
} from './der.ts';
import { pem, pemBytes } from './pem.ts';

export interface RevocationList {
  /** The DER of its issuer's name. */
  issuer: Buffer;
  number: bigint;
  nextUpdate: Date | undefined;
  /** Entries as they are in the list, by their serials. */
  entries: Map<string, Buffer>;
}

/** What signs a list. */
export interface CrlSigner {
  /** The DER of the CA's name, as it is in its certificate. */
  name: Buffer;
  /** Its key's identifier, as it is in its certificate. */
  keyId: Buffer;
  key: KeyObject;
}

const OIDS = {
  sha256WithRsa: Buffer.from('2a864886f70d01010b', 'hex'),
  ecdsaWithSha256: Buffer.from('2a8648ce3d040302', 'hex'),
  crlNumber: Buffer.from('551d14', 'hex'),
  authorityKeyIdentifier: Buffer.from('551d23', 'hex'),
  reasonCode: Buffer.from('551d15', 'hex'),
};
/** keyCompromise: the reason that Puppet's CA gives for every revocation. */
const REASON = 1;

/** Serials are compared in lower-case hexadecimal without leading zeros. */
export function normalSerial(hex: string): string {
  return hex.toLowerCase().replace(/^0+(?=.)/, '');
}

/** Reads a list in PEM. Throws for what is none. */
export function readCrl(text: string): RevocationList {
  const [tbs] = derChildren(readDer(pemBytes(text)));
  const fields = derChildren(tbs!);
  if (fields[0]?.tag === INTEGER) fields.shift();
  const [, issuer, , ...rest] = fields;
  if (!issuer) throw new Error('The revocation list has no issuer');
  const isTime = (field: DerValue | undefined): boolean => field?.tag === UTC_TIME || field?.tag === GENERALIZED_TIME;
  const nextUpdate = isTime(rest[0]) ? readDerTime(rest.shift()!) : undefined;
  const entries = new Map<string, Buffer>();
  if (rest[0]?.tag === SEQUENCE) {
    for (const entry of derChildren(rest.shift()!)) {
      entries.set(serialOf(readDer(entry.bytes, entry.content, entry.end)), derWhole(entry));
    }
  }
  const extensions = rest[0] ? derChildren(derChildren(rest[0])[0]!) : [];
  return { issuer: derWhole(issuer), number: numberIn(extensions), nextUpdate, entries };
}

/** An entry for a certificate that is revoked now. */
export function revocation(serial: string, at: Date): Buffer {
  const reason = der(SEQUENCE, der(OID, OIDS.reasonCode), der(OCTET_STRING, der(ENUMERATED, Buffer.from([REASON]))));
  return der(SEQUENCE, derInteger(serial), derTime(at), der(SEQUENCE, reason));
}

/** Signs a list and gives it in PEM. */
export function makeCrl(
  { name, keyId, key }: CrlSigner,
  list: { number: bigint; thisUpdate: Date; nextUpdate: Date; entries: Map<string, Buffer> },
): string {
  const algorithm =
    key.asymmetricKeyType === 'ec'
      ? der(SEQUENCE, der(OID, OIDS.ecdsaWithSha256))
      : der(SEQUENCE, der(OID, OIDS.sha256WithRsa), der(NULL));
  const extensions = der(
    SEQUENCE,
    der(
      SEQUENCE,
      der(OID, OIDS.authorityKeyIdentifier),
      der(OCTET_STRING, der(SEQUENCE, der(CONTEXT_0_PRIMITIVE, keyId))),
    ),
    der(SEQUENCE, der(OID, OIDS.crlNumber), der(OCTET_STRING, derInteger(list.number.toString(16)))),
  );
  const tbs = der(
    SEQUENCE,
    derInteger('1'), // version 2
    algorithm,
    name,
    derTime(list.thisUpdate),
    derTime(list.nextUpdate),
    // An empty list of entries is left out: RFC 5280 forbids it, and OpenSSL minds.
    ...(list.entries.size > 0 ? [der(SEQUENCE, ...list.entries.values())] : []),
    der(CONTEXT_0, extensions),
  );
  const signature = sign('sha256', tbs, key);
  return pem('X509 CRL', der(SEQUENCE, tbs, algorithm, der(BIT_STRING, Buffer.from([0]), signature)));
}

const CONTEXT_0 = 0xa0;
const CONTEXT_0_PRIMITIVE = 0x80;

function serialOf(value: DerValue): string {
  return normalSerial(derContent(value).toString('hex'));
}

function numberIn(extensions: DerValue[]): bigint {
  for (const extension of extensions) {
    const [oid, ...rest] = derChildren(extension);
    if (!derContent(oid!).equals(OIDS.crlNumber)) continue;
    const number = readDer(derContent(rest.at(-1)!));
    return BigInt(`0x${derContent(number).toString('hex')}`);
  }
  return 0n;
}
