/**
 * The node's side of the release room in one process, with everything on that a request meets in the whole server: the
 * embedded CA and its list of the revoked, identity, metrics, notifications, sealed catalogs in PostgreSQL.
 * `server.ts <order JSON>`.
 */
import pino from 'pino';
import { catalogKeys } from '../../src/catalog/seal.ts';
import { catalogStore } from '../../src/catalog/store.ts';
import { buildApp } from '../../src/http/app.ts';
import { openCa } from '../../src/http/ca.ts';
import { identifyRequests } from '../../src/http/identify.ts';
import { openMetrics } from '../../src/http/metrics.ts';
import { Tokens } from '../../src/http/tokens.ts';
import { openDatabase, openPool } from '../../src/postgres/database.ts';
import { startListener } from '../../src/postgres/listen.ts';
import { serveRoutes } from '../../src/release/serve.ts';

const order = JSON.parse(process.argv[2]!) as { state: string; databaseUrl: string; port: number; keyFile: string };
const logger = pino({ level: 'info' }, pino.destination('/dev/null'));
const ca = await openCa(order.state);
const db = openDatabase(openPool(order.databaseUrl));
const listener = await startListener(order.databaseUrl, logger);
const catalogs = catalogStore({
  keys: await catalogKeys({ file: order.keyFile, make: false }),
  guardContent: async () => {},
});
const app = await buildApp({
  logger,
  identify: identifyRequests({ ca, tokens: new Tokens(db) }),
  tls: await ca.tlsOptions(['localhost']),
  metrics: openMetrics(),
  rooms: [serveRoutes({ db, listener, isListening: listener.isListening, readCatalogGzip: catalogs.readCatalogGzip })],
});
await app.listen({ host: '127.0.0.1', port: order.port });
// Ends by itself, so that Node's profiler (BENCH_NODE_OPTIONS=--cpu-prof) writes what it saw.
process.on('SIGTERM', () => process.exit(0));
