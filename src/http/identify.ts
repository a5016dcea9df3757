/**
 * From a request to its identity. A request that carries an Authorization header is judged by it alone: a bad token is
 * not saved by a good certificate. Any other is what the client certificate of its connection says.
 *
 * A certificate is read once per connection, since it cannot change there; whether it is revoked or has expired is asked
 * at every request, since both can happen in the middle of a connection.
 */
import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import type { FastifyRequest } from 'fastify';
import { parseCertname } from '../model/ids.ts';
import { CERTIFICATE_CACHE_MAX } from '../model/limits.ts';
import type { Ca } from './ca.ts';
import { puppetExtensions } from './certificate.ts';
import { normalSerial } from './crl.ts';
import { ANONYMOUS, type Identity } from './identity.ts';
import type { Tokens } from './tokens.ts';

/** Says who sent a request. Answers at once where it can: a promise costs the hot paths a turn of the event loop. */
export type Identify = (request: FastifyRequest) => Identity | Promise<Identity>;

interface Reading {
  identity: Identity;
  serial: string;
  notBefore: number;
  notAfter: number;
}

const NOBODY: Reading = { identity: ANONYMOUS, serial: '', notBefore: 0, notAfter: Number.POSITIVE_INFINITY };

export function identifyRequests({ ca, tokens }: { ca: Ca; tokens: Tokens }): Identify {
  const bySocket = new WeakMap<object, Reading>();
  // A node that connects anew shows the same certificate: reading it, ASN.1 and all, is most of the cost.
  const byFingerprint = new Map<string, Reading>();

  const read = (socket: TLSSocket): Reading => {
    const certificate = socket.authorized ? socket.getPeerX509Certificate() : undefined;
    if (!certificate) return NOBODY;
    const known = byFingerprint.get(certificate.fingerprint256);
    if (known) return known;
    const reading = readCertificate(certificate, ca);
    if (byFingerprint.size >= CERTIFICATE_CACHE_MAX) byFingerprint.delete(byFingerprint.keys().next().value!);
    byFingerprint.set(certificate.fingerprint256, reading);
    return reading;
  };

  return (request) => {
    const { authorization } = request.raw.headers;
    if (authorization !== undefined) return tokens.identify(authorization);
    const socket = request.raw.socket as TLSSocket;
    let reading = bySocket.get(socket);
    if (!reading) {
      // No TLS: a test's inject().
      if (typeof socket.getPeerX509Certificate !== 'function') return ANONYMOUS;
      reading = read(socket);
      bySocket.set(socket, reading);
    }
    if (reading === NOBODY || ca.isRevoked(reading.serial)) return ANONYMOUS;
    const now = Date.now();
    return reading.notBefore <= now && now < reading.notAfter ? reading.identity : ANONYMOUS;
  };
}

/** TLS has verified the chain; what is left is that our CA itself signed it, and what it says. */
function readCertificate(certificate: X509Certificate, ca: Ca): Reading {
  if (!ca.signed(certificate)) return NOBODY;
  try {
    const names = certificate.subject.split('\n').filter((line) => line.startsWith('CN='));
    if (names.length !== 1) return NOBODY;
    const certname = parseCertname(names[0]!.slice(3));
    return {
      identity: { kind: 'node', certname, extensions: puppetExtensions(certificate.raw) },
      serial: normalSerial(certificate.serialNumber),
      notBefore: certificate.validFromDate.getTime(),
      notAfter: certificate.validToDate.getTime(),
    };
  } catch {
    // A name that is no certname is nobody we know.
    return NOBODY;
  }
}
