/**
 * The control plane: the list of rooms, built and plugged together by hand. Nothing else knows them all, and no room knows
 * another. A process holds every service or a few of them (`--only`); what they share is the database and the content store.
 *
 * Start: state directory, database, migrations, then rooms, then the queue, then the port. Stop is the other way round, in at
 * most STOP_TIME_MAX_MS. Any kill at any moment is as good as a stop (crash-only): jobs are found again by the next process.
 */
import { lookup } from 'node:dns/promises';
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { Counter, Histogram } from 'prom-client';
import { explainRoutes } from './catalog/explain-routes.ts';
import { planRoutes } from './catalog/plan-routes.ts';
import { catalogRoutes } from './catalog/routes.ts';
import { type CatalogKeys, catalogKeys, openSealed, seal, unzipped } from './catalog/seal.ts';
import { catalogStore } from './catalog/store.ts';
import { affectedJobs } from './compile/affected.ts';
import { baseDigest } from './compile/base.ts';
import { classificationJobs, queueClassify } from './compile/classification-jobs.ts';
import { classificationRoutes } from './compile/classification-routes.ts';
import { compileJobs } from './compile/jobs.ts';
import { CompilePool } from './compile/pool.ts';
import { queueAffected, queueChangedNodes, queueCompiles, queueEnvironmentCompiles } from './compile/queue.ts';
import { recompileJobs } from './compile/recompile.ts';
import { compileRoutes } from './compile/routes.ts';
import type { Service, Settings } from './config/settings.ts';
import { openStateDirectory } from './config/state.ts';
import { collectionRoutes } from './content/collection-routes.ts';
import { openDiskContent } from './content/disk.ts';
import { rememberGrants } from './content/grants.ts';
import { guardContent } from './content/guard.ts';
import { collections, contentJobs } from './content/jobs.ts';
import { contentRoutes } from './content/routes.ts';
import { factsRoutes } from './facts/routes.ts';
import { type App, buildApp, type Routes } from './http/app.ts';
import { auditRoutes, insertAudit } from './http/audit.ts';
import { openCa } from './http/ca.ts';
import { healthRoutes } from './http/health.ts';
import { identifyRequests } from './http/identify.ts';
import { gauge, metricsRoutes, openMetrics, serveMetrics } from './http/metrics.ts';
import { Tokens } from './http/tokens.ts';
import { CallboardError } from './model/errors.ts';
import type { CatalogHash } from './model/ids.ts';
import { DEPLOYS_AT_ONCE_MAX, SYNCS_AT_ONCE_MAX } from './model/limits.ts';
import { openDatabase, openPool } from './postgres/database.ts';
import { startEmbeddedPostgres } from './postgres/embedded.ts';
import { startListener } from './postgres/listen.ts';
import { migrate } from './postgres/migrate.ts';
import { enqueue, type JobHandlers, PRIORITY, queueDepth, startQueue } from './postgres/queue.ts';
import { afterCarryOver, afterCompile, applyPolicies } from './release/pointers.ts';
import { releaseRoutes } from './release/routes.ts';
import { serveRoutes } from './release/serve.ts';
import { reportJobs } from './report/jobs.ts';
import { reportRoutes } from './report/routes.ts';
import { codeDirectories } from './truth/code-directory.ts';
import { askEnc } from './truth/enc.ts';
import { hookRoutes } from './truth/hook-routes.ts';
import { type TruthDependencies, truthJobs } from './truth/jobs.ts';
import { truthRoutes } from './truth/routes.ts';
import { sourceRoutes } from './truth/source-routes.ts';
import { appendDeployLog } from './truth/store.ts';
import { queueDueSyncs } from './truth/sync.ts';
import { trialJobs } from './truth/trials.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
/** Code sources say in minutes how often they are polled. */
const DUE_SYNCS_MS = 15_000;
const KEPT_UP = { key: 'housekeeping', priority: PRIORITY.background };

export interface Server {
  /** Where it answers; undefined where this process has no `api`. */
  url: string | undefined;
  stop(): Promise<void>;
}

export async function startServer(settings: Settings, logger: Logger): Promise<Server> {
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const each of stops.splice(0).reverse()) {
      await each().catch((error: Error) => logger.error({ err: error }, 'a part did not stop cleanly'));
    }
  };
  try {
    return { url: await start(settings, logger, stops), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function start(
  settings: Settings,
  logger: Logger,
  stops: (() => Promise<unknown>)[],
): Promise<string | undefined> {
  const has = (service: Service): boolean => settings.only.has(service);

  const state = await openStateDirectory(settings.state);
  stops.push(() => state.release());
  let databaseUrl = settings.databaseUrl;
  if (!databaseUrl) {
    const embedded = await startEmbeddedPostgres(state.path, logger);
    stops.push(() => embedded.stop());
    databaseUrl = embedded.url;
  }
  const pool = openPool(databaseUrl);
  stops.push(() => pool.end());
  await migrate(pool);
  const db = openDatabase(pool);
  const listener = await startListener(databaseUrl, logger);
  stops.push(() => listener.close());
  const metrics = openMetrics();

  // The rooms, in the order of the flow.
  const content = await openDiskContent({ directory: join(state.path, 'content') });
  const grants = rememberGrants(db);
  const keys = await catalogKeys({
    file: settings.catalogKeyFile ?? join(state.path, 'catalog.key'),
    make: settings.catalogKeyFile === undefined,
  });
  const catalogs = catalogStore({
    keys,
    guardContent: (tx, hashes) => guardContent(tx, content, hashes),
  });
  const code = codeDirectories({ state: state.path, content });
  const truth = {
    db,
    content,
    logger,
    state: state.path,
    basemodulepath: settings.baseModulepath,
    r10k: settings.r10k,
    r10kConfig: settings.r10kConfig,
    g10k: settings.g10k,
    secrets: hookSecrets(keys),
    queueEnvironmentCompiles,
    queueAffected,
  };

  const jobs: JobHandlers = {};
  if (has('truth')) Object.assign(jobs, truthJobs(truth), trialJobs(truth));
  if (has('compile')) {
    Object.assign(jobs, classificationJobs({ db, logger, askEnc }));
    const compilers = new CompilePool({
      ruby: 'ruby',
      certname: settings.serverName,
      fileserverConfig: settings.fileserverConf,
      concurrency: settings.compileWorkers,
      timeMaxMs: settings.compileTimeMaxMs,
      memoryMaxBytes: settings.compileMemoryMaxBytes,
      note: (message, detail) => logger.warn(detail, message),
    });
    stops.push(() => compilers.close());
    const seconds = new Histogram({
      name: 'callboard_compile_seconds',
      help: 'How long compiles took, by outcome',
      labelNames: ['outcome'],
      buckets: [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120],
      registers: [metrics.registry],
    });
    const audits = new Counter({
      name: 'callboard_skip_audits_total',
      help: 'Skipped compiles that were compiled all the same; any that is different is an unsound skip',
      labelNames: ['outcome'],
      registers: [metrics.registry],
    });
    const compiling = {
      db,
      logger,
      pool: compilers,
      content,
      codeDirectory: code.codeDirectory,
      serverFacts: await serverFacts(settings.serverName),
    };
    const base = once(async () => {
      const { puppetVersion, rubyVersion } = await compilers.start();
      return baseDigest({
        puppetVersion,
        rubyVersion,
        certname: settings.serverName,
        puppetSettings: {},
        fileserverConfig: settings.fileserverConf ? await readFile(settings.fileserverConf, 'utf8') : '',
        serverFacts: compiling.serverFacts,
      });
    });
    Object.assign(
      jobs,
      compileJobs({
        ...compiling,
        base,
        askEnc,
        storeCatalog: catalogs.storeCatalog,
        afterCompile,
        onEnd: (outcome, took) => seconds.labels(outcome).observe(took),
      }),
      affectedJobs({
        ...compiling,
        base,
        ruby: 'ruby',
        expectCompiles: (environment, codeVersion) =>
          void code.codeDirectory(codeVersion).then(
            (directory) => compilers.expect(environment, directory),
            (error: Error) => logger.warn({ err: error, code_version: codeVersion }, 'a code directory was not made'),
          ),
        afterCarryOver,
        tell: appendDeployLog,
      }),
      recompileJobs({ ...compiling, base, onAudit: (outcome) => audits.labels(outcome).inc() }),
    );
  }
  const collecting = collections(
    { db, store: content, logger, code, onRemoved: () => grants.forget() },
    { historyTimeMs: settings.compilesKeepDays * DAY_MS },
  );
  if (has('content')) Object.assign(jobs, contentJobs(collecting));
  if (has('report')) Object.assign(jobs, reportJobs({ db, logger, daysKept: settings.eventsKeepDays }));

  const ended = new Counter({
    name: 'callboard_jobs_total',
    help: 'Attempts at jobs that ended, by job and outcome',
    labelNames: ['job', 'outcome'],
    registers: [metrics.registry],
  });
  gauge(metrics.registry, {
    name: 'callboard_queue_depth',
    help: 'Jobs that wait or run',
    read: async () => (await queueDepth(db)).reduce((sum, each) => sum + each.waiting + each.delayed + each.running, 0),
  });
  const queue = await startQueue({
    pool,
    handlers: jobs,
    concurrency: { compile: settings.compileWorkers, deploy: DEPLOYS_AT_ONCE_MAX, sync: SYNCS_AT_ONCE_MAX },
    logger,
    services: [...settings.only],
    onEnd: (job, outcome) => ended.labels(job, outcome).inc(),
  });
  stops.push(() => queue.stop());
  if (has('truth')) stops.push(repeat(DUE_SYNCS_MS, () => queueDueSyncs(db), logger));
  if (has('compile')) stops.push(repeat(MINUTE_MS, () => queueClassify(db), logger));
  if (has('report')) stops.push(repeat(HOUR_MS, () => enqueue(db, 'housekeeping', {}, KEPT_UP), logger));
  if (has('compile'))
    stops.push(repeat(MINUTE_MS, () => enqueue(db, 'recompile', {}, { ...KEPT_UP, key: 'recompile' }), logger));
  if (has('truth')) stops.push(repeat(HOUR_MS, () => enqueue(db, 'trials', {}, { ...KEPT_UP, key: 'trials' }), logger));
  if (has('content'))
    stops.push(repeat(DAY_MS, () => enqueue(db, 'collect', {}, { ...KEPT_UP, key: 'collect' }), logger));

  if (settings.metricsListen) {
    const server = await serveMetrics(metrics.registry, settings.metricsListen);
    stops.push(async () => server.close());
  }
  if (!has('api')) return undefined;

  const ca = await openCa(state.path);
  stops.push(async () => ca.close());
  const names = [settings.serverName];
  const reading = { db, readCatalog: catalogs.readCatalog, content };
  const rooms: Routes[] = [
    healthRoutes({ checks: { database: () => pool.query('select 1') } }),
    metricsRoutes(metrics),
    auditRoutes({ db }),
    factsRoutes({ db, queueCompiles, queueChangedNodes }),
    truthRoutes({ ...truth, applyPolicies: (environment) => applyPolicies(db, environment) }),
    compileRoutes({ db, workers: settings.compileWorkers }),
    sourceRoutes(truth),
    hookRoutes(truth),
    classificationRoutes({ db }),
    catalogRoutes(reading),
    planRoutes({ ...reading, listener, logger, compileWorkers: settings.compileWorkers }),
    explainRoutes(reading),
    contentRoutes({ store: content, mayRead: grants.mayRead }),
    collectionRoutes(collecting),
    releaseRoutes({ db, queue: { queueCompiles, queueEnvironmentCompiles } }),
    serveRoutes({ db, listener, isListening: listener.isListening, readCatalogGzip: catalogs.readCatalogGzip }),
    reportRoutes({ db, listener, logger }),
  ];
  const app: App = await buildApp({
    identify: identifyRequests({ ca, tokens: new Tokens(db) }),
    logger,
    tls: await ca.tlsOptions(names),
    rooms,
    audit: (entry) => insertAudit(db, entry),
    metrics,
  });
  await app.listen({ host: settings.listen.host, port: settings.listen.port });
  stops.push(() => app.close());
  ca.maintain({
    server: app.server,
    names,
    warn: (error) => logger.warn({ err: error }, 'a certificate was not renewed'),
  });
  const { port } = app.server.address() as AddressInfo;
  const url = `https://${settings.serverName}:${port}`;
  logger.info({ url, services: [...settings.only] }, 'the control plane answers');
  return url;
}

/** The hook secrets of code sources rest as catalogs do, each under a name that no catalog has. */
function hookSecrets(keys: CatalogKeys): TruthDependencies['secrets'] {
  const named = (source: string) => `code source ${source}` as CatalogHash;
  return {
    seal: (source, secret) => seal(keys, named(source), Buffer.from(secret)),
    async open(source, sealed) {
      try {
        return (await unzipped(openSealed(keys, named(source), sealed))).toString();
      } catch (cause) {
        const reason = 'its bytes were altered, or the key is not the one that sealed it';
        throw new CallboardError('CODE_SOURCE_SECRET_UNREADABLE', { source, reason }, { cause });
      }
    },
  };
}

/** What Puppet tells catalogs of its server. The same on every compiler, so that the same inputs give the same catalog (P3). */
async function serverFacts(serverName: string): Promise<Record<string, string>> {
  const { address } = await lookup(serverName, { family: 4 }).catch(() => ({ address: '127.0.0.1' }));
  return { servername: serverName, serverip: address };
}

/** A promise made at its first use, and anew after a failure. */
function once<Value>(make: () => Promise<Value>): () => Promise<Value> {
  let made: Promise<Value> | undefined;
  return () => {
    made ??= make();
    made.catch(() => {
      made = undefined;
    });
    return made;
  };
}

/** Queues a job now and then; queued by several processes it is one job all the same. */
function repeat(everyMs: number, queue: () => Promise<void>, logger: Logger): () => Promise<void> {
  const tick = (): void =>
    void queue().catch((error: Error) => logger.warn({ err: error }, 'a job was not queued; the next time is as good'));
  tick();
  const timer = setInterval(tick, everyMs);
  return async () => clearInterval(timer);
}
