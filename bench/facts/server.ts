/**
 * The facts and report routes in one process, with everything on that a request meets in the whole server: the embedded CA and
 * its list of the revoked, identity, limits, PostgreSQL, real queueing of compiles. `server.ts <order JSON>`.
 */
import pino from 'pino';
import { queueChangedNodes, queueCompiles } from '../../src/compile/queue.ts';
import { factsRoutes } from '../../src/facts/routes.ts';
import { buildApp } from '../../src/http/app.ts';
import { openCa } from '../../src/http/ca.ts';
import { identifyRequests } from '../../src/http/identify.ts';
import { Tokens } from '../../src/http/tokens.ts';
import { openDatabase, openPool } from '../../src/postgres/database.ts';
import { startListener } from '../../src/postgres/listen.ts';
import { reportRoutes } from '../../src/report/routes.ts';

const order = JSON.parse(process.argv[2]!) as { state: string; databaseUrl: string; port: number };
const logger = pino({ level: 'warn' });
const ca = await openCa(order.state);
const db = openDatabase(openPool(order.databaseUrl));
const listener = await startListener(order.databaseUrl, logger);
const app = await buildApp({
  logger,
  identify: identifyRequests({ ca, tokens: new Tokens(db) }),
  tls: await ca.tlsOptions(['localhost']),
  rooms: [factsRoutes({ db, queueCompiles, queueChangedNodes }), reportRoutes({ db, listener, logger })],
});
await app.listen({ host: '127.0.0.1', port: order.port });
process.on('SIGTERM', () => process.exit(0));
