/**
 * The content routes alone in one process, with everything on that a request meets in the whole server: TLS with client
 * certificates, identity, access check against PostgreSQL. `server.ts <order JSON>`; prints the port when it listens.
 */
import { readFileSync } from 'node:fs';
import type { TLSSocket } from 'node:tls';
import pino from 'pino';
import { openDiskContent } from '../../src/content/disk.ts';
import { rememberGrants } from '../../src/content/grants.ts';
import { contentRoutes } from '../../src/content/routes.ts';
import { buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import { parseCertname } from '../../src/model/ids.ts';
import { openDatabase, openPool } from '../../src/postgres/database.ts';

const order = JSON.parse(process.argv[2]!) as {
  directory: string;
  databaseUrl: string;
  port: number;
  files: { ca: string; serverCert: string; serverKey: string };
};

const db = openDatabase(openPool(order.databaseUrl));
const store = await openDiskContent({ directory: order.directory });
const identities = new WeakMap<object, Identity>();
const app = await buildApp({
  logger: pino({ level: 'warn' }),
  identify: (request) => {
    const socket = request.raw.socket as TLSSocket;
    let identity = identities.get(socket);
    if (!identity) {
      const certname = parseCertname(socket.getPeerCertificate().subject.CN as string);
      identity = { kind: 'node', certname, extensions: {} };
      identities.set(socket, identity);
    }
    return identity;
  },
  tls: {
    ca: readFileSync(order.files.ca),
    cert: readFileSync(order.files.serverCert),
    key: readFileSync(order.files.serverKey),
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
  },
  rooms: [contentRoutes({ store, mayRead: rememberGrants(db).mayRead })],
});
await app.listen({ host: '127.0.0.1', port: order.port });
// Ends by itself, so that Node's profiler (BENCH_NODE_OPTIONS=--cpu-prof) writes what it saw.
process.on('SIGTERM', () => process.exit(0));
