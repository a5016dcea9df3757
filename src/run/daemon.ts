/**
 * The node daemon. Five loops, each of which looks at the whole state when its time has come or when it is rung, and is safe to
 * look twice (P7): facts, catalog, run, wake-ups, delivery. They share three rules:
 *
 * - A run needs nobody. It starts from local files only, and happens on schedule with the control plane away.
 * - One at a time: runs among themselves; and what fetches or removes content (facts' plugins, catalogs) among itself.
 * - Nothing here ends the daemon. What fails is logged and tried again; only a stop ends the loops.
 */
import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { mkdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { CatalogHash, ContentHash, RunId } from '../model/ids.ts';
import {
  NODE_BACKOFF_MAX_MS,
  RUN_EVENTS_BYTES_MAX,
  RUN_FINISH_MAX_MS,
  RUN_HALT_MAX_MS,
  SPOOL_BYTES_MAX,
} from '../model/limits.ts';
import { Alarm } from './alarm.ts';
import { Catalogs, type CurrentCatalog, checkServed, type ServedCatalog } from './catalogs.ts';
import { LocalContent } from './content.ts';
import { ControlPlane } from './control-plane.ts';
import { Delivery } from './delivery.ts';
import { Facts } from './facts.ts';
import { PluginTrees } from './plugins.ts';
import { runIdAt } from './run-id.ts';
import { type JobEnd, type PuppetJob, Runner, waitForOrphan } from './runner.ts';
import { backoffMs, firstAt, nextAt } from './schedule.ts';
import { Spool } from './spool.ts';
import { lockState } from './state-lock.ts';
import { both, isNoop, type Wanted } from './wanted.ts';

export interface NodeSettings {
  server: string;
  certname: string;
  state: string;
  ssldir: string;
  /** Where facts say the node belongs; null: where its catalog says, or production. */
  environment: string | null;
  noop: boolean;
  factsIntervalMs: number;
  runIntervalMs: number;
  pollIntervalMs: number;
  /** First actions after a start are spread over this time. */
  splayMs: number;
  /** What follows a wake-up is spread over this time. */
  wakeSplayMs: number;
  logLevel: string;
  puppetSettings: Record<string, string | number | boolean>;
  spoolBytesMax?: number;
  ruby?: string;
  runnerEnv?: Record<string, string>;
  runFinishMs?: number;
}

/** Runs until `stop`; then ends gracefully. Throws only when it cannot start: NODE_STATE_IN_USE, NODE_CERTIFICATE_MISSING. */
export async function runNode(settings: NodeSettings, log: Logger, stop: AbortSignal): Promise<void> {
  // Every request and every wait hears of the stop.
  setMaxListeners(0, stop);
  await mkdir(settings.state, { recursive: true, mode: 0o700 });
  const unlock = await lockState(settings.state);
  try {
    const daemon = new NodeDaemon(settings, log.child({ node: settings.certname }), stop);
    await daemon.run();
  } finally {
    await unlock();
  }
}

interface CollectedFacts {
  document: Buffer;
  environment: string;
  at: number;
}

class NodeDaemon {
  readonly #settings: NodeSettings;
  readonly #log: Logger;
  readonly #stop: AbortSignal;
  /** Fires some time after the stop, when even delivery must end. */
  readonly #end = new AbortController();
  readonly #control: ControlPlane;
  readonly #content: LocalContent;
  readonly #plugins: PluginTrees;
  readonly #catalogs: Catalogs;
  readonly #runner: Runner;
  readonly #facts: Facts;
  readonly #spool: Spool;
  readonly #delivery: Delivery;
  readonly #factsAlarm: Alarm;
  readonly #catalogAlarm: Alarm;
  readonly #runAlarm: Alarm;
  /** The end of the queue of those that fetch or remove content. */
  #syncing: Promise<unknown> = Promise.resolve();
  /** Content of the current catalog may be missing: damage, or a hand in the state directory. */
  #complete = false;
  #factsPlugins: ContentHash | null = null;
  /** Facts that were collected and not yet taken by the control plane. */
  #unsent: CollectedFacts | null = null;
  #wanted: Wanted | null = null;
  #running: { id: RunId; catalog: CatalogHash; plugins: ContentHash | null } | null = null;
  /** Requests that were taken up; the control plane goes on to name one until it has the run's start. */
  readonly #taken = new Set<string>();
  #hasFacts = false;
  /** The catalog has been looked for once, in vain or not: a start does not run what is about to be replaced. */
  #looked = false;

  constructor(settings: NodeSettings, log: Logger, stop: AbortSignal) {
    const { state } = settings;
    this.#settings = settings;
    this.#log = log;
    this.#stop = stop;
    this.#control = new ControlPlane({ ...settings, stop });
    this.#content = new LocalContent(join(state, 'content'), (hash) => this.#control.content(hash));
    this.#plugins = new PluginTrees(join(state, 'plugins'), this.#content);
    this.#catalogs = new Catalogs(join(state, 'catalogs'));
    this.#runner = new Runner({ log, stop, ruby: settings.ruby, env: settings.runnerEnv });
    this.#facts = new Facts(join(state, 'facts'), this.#runner, this.#control, log);
    this.#spool = new Spool(join(state, 'spool'), settings.spoolBytesMax ?? SPOOL_BYTES_MAX);
    this.#delivery = new Delivery(this.#spool, this.#control, log, this.#end.signal);
    this.#factsAlarm = new Alarm(stop);
    this.#catalogAlarm = new Alarm(stop);
    this.#runAlarm = new Alarm(stop);
  }

  async run(): Promise<void> {
    const { state } = this.#settings;
    for (const directory of ['content', 'plugins', 'puppet'])
      await mkdir(join(state, directory), { recursive: true, mode: 0o755 });
    await this.#facts.open();
    this.#hasFacts = (await stat(this.#facts.path).catch(() => null)) !== null;
    await this.#catalogs.open();
    const unfinished = await this.#spool.open();
    for (const request of await this.#spool.requests()) this.#taken.add(request);
    this.#log.info(
      { server: this.#settings.server, catalog: this.#catalogs.current?.catalog ?? null, spooled: this.#spool.size },
      'the node daemon starts',
    );
    // Loading Puppet takes as long as the first requests do.
    this.#runner
      .warm()
      .catch((error) => this.#log.warn({ err: String(error) }, 'the runner did not start; it is tried again'));
    const delivery = this.#delivery.run();
    await Promise.all([this.#factsLoop(), this.#catalogLoop(), this.#runLoop(unfinished), this.#wakeupLoop()]);
    await this.#delivery.drained(3000);
    this.#end.abort();
    await delivery;
    await this.#runner.close();
    await this.#control.close();
    this.#log.info('the node daemon has stopped');
  }

  // ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #factsLoop(): Promise<void> {
    const { factsIntervalMs, splayMs, wakeSplayMs } = this.#settings;
    let at = firstAt(Date.now(), splayMs, Math.random());
    let failures = 0;
    for (;;) {
      const rung = await this.#factsAlarm.until(at);
      if (this.#stop.aborted) return;
      if (rung) {
        this.#unsent = null;
        await this.#pause(wakeSplayMs);
      }
      const startedAt = Date.now();
      try {
        await this.#collectAndSubmit();
        failures = 0;
        at = nextAt(startedAt, factsIntervalMs, Math.random());
      } catch (error) {
        if (this.#stop.aborted) return;
        failures++;
        this.#log.warn({ err: String(error) }, 'facts were not submitted');
        at = Math.min(
          nextAt(startedAt, factsIntervalMs, Math.random()),
          Date.now() + backoffMs(failures, 2000, NODE_BACKOFF_MAX_MS, Math.random()),
        );
      }
    }
  }

  async #collectAndSubmit(): Promise<void> {
    let tree = this.#factsPlugins;
    let unreachable: unknown;
    try {
      tree = await this.#control.plugins();
      if (tree) await this.#synced(() => this.#plugins.ensure(tree!));
    } catch (error) {
      unreachable = error;
      tree ??= this.#catalogs.current?.plugins ?? null;
    }
    // Without the control plane facts are collected all the same, with the plugins at hand, since runs need them. But once: what
    // could not be sent waits to be sent, and Facter, the dearest thing a node does, is not run again for each try.
    const unsent = this.#unsent;
    const isStale = !unsent || Date.now() - unsent.at >= this.#settings.factsIntervalMs || tree !== this.#factsPlugins;
    this.#factsPlugins = tree;
    const facts = isStale ? await this.#collectFacts(tree) : unsent;
    this.#unsent = facts;
    if (unreachable) throw unreachable;
    await this.#facts.submit(facts.environment, facts.document, Date.now());
    this.#unsent = null;
  }

  async #collectFacts(tree: ContentHash | null): Promise<CollectedFacts> {
    const environment = this.#environment();
    const document = await this.#facts.collect(this.#puppetJob(tree, environment, this.#settings.noop));
    this.#hasFacts = true;
    this.#runAlarm.ring();
    return { document, environment, at: Date.now() };
  }

  #environment(): string {
    return this.#settings.environment ?? this.#catalogs.current?.environment ?? 'production';
  }

  // ── catalog ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #catalogLoop(): Promise<void> {
    const { pollIntervalMs, splayMs } = this.#settings;
    let at = firstAt(Date.now(), splayMs, Math.random());
    let failures = 0;
    for (;;) {
      await this.#catalogAlarm.until(at);
      if (this.#stop.aborted) return;
      try {
        await this.#synced(() => this.#checkCatalog());
        failures = 0;
        at = nextAt(Date.now(), pollIntervalMs, Math.random());
      } catch (error) {
        if (this.#stop.aborted) return;
        failures++;
        this.#log.warn({ err: String(error) }, 'the catalog could not be looked for');
        at = Date.now() + Math.min(pollIntervalMs, backoffMs(failures, 1000, NODE_BACKOFF_MAX_MS, Math.random()));
      }
      if (!this.#looked) {
        this.#looked = true;
        this.#runAlarm.ring();
      }
    }
  }

  async #checkCatalog(): Promise<void> {
    const current = this.#catalogs.current;
    if (current && !this.#complete) await this.#completeCurrent(current);
    const answer = await this.#control.catalog(current?.etag ?? null);
    if (answer.kind === 'catalog') await this.#take(answer);
    else if (answer.kind === 'none') this.#log.info('no catalog is released to this node yet');
    if (answer.request && !this.#taken.has(answer.request.id))
      this.#wantRun({ trigger: 'request', request: answer.request });
    this.#delivery.back();
  }

  /** Makes a served catalog the current one, when all it needs is here. */
  async #take(served: ServedCatalog): Promise<void> {
    const { environment, contents } = checkServed(served, this.#settings.certname);
    const content = await this.#content.ensure(contents);
    const plugins = served.plugins ? await this.#plugins.ensure(served.plugins) : { files: 0, bytes: 0 };
    const isNew = await this.#catalogs.swap(served, environment, new Date());
    this.#complete = true;
    this.#log.info(
      {
        catalog: served.id,
        code_version: served.codeVersion,
        plugins: served.plugins,
        run_mode: served.runMode,
        files: content.files + plugins.files,
        bytes: content.bytes + plugins.bytes,
      },
      isNew ? 'a new catalog is here' : 'the catalog is the same, what is said about it is new',
    );
    await this.#collect();
    if (isNew) this.#wantRun({ trigger: 'catalog', request: null });
    // Its modules may bring facts that were not collected yet.
    if (served.plugins !== this.#factsPlugins) this.#factsAlarm.ring();
  }

  /** Fetches what the current catalog names and is not here. */
  async #completeCurrent(current: CurrentCatalog): Promise<void> {
    const lacking = await this.#content.lacking(await this.#catalogs.contents(current.catalog));
    const fetched = await this.#content.ensure(lacking);
    if (current.plugins) await this.#plugins.ensure(current.plugins);
    if (fetched.files > 0)
      this.#log.warn({ catalog: current.catalog, ...fetched }, 'content of the current catalog was lacking');
    this.#complete = true;
    this.#runAlarm.ring();
  }

  /** Removes what neither the current catalog, the one before, a run under way nor facts need. */
  async #collect(): Promise<void> {
    const current = this.#catalogs.current;
    const kept = [current, current?.previous, this.#running].filter((one) => one != null);
    const catalogs = new Set<string>(kept.map((one) => one.catalog));
    const trees = new Set<string>(
      [...kept.map((one) => one.plugins), this.#factsPlugins].filter((tree) => tree !== null),
    );
    const contents = new Set<string>();
    for (const id of catalogs)
      for (const hash of await this.#catalogs.contents(id as CatalogHash).catch(() => [])) contents.add(hash);
    for (const tree of trees) for (const hash of await this.#plugins.contents(tree as ContentHash)) contents.add(hash);
    await this.#catalogs.collect(catalogs);
    await this.#plugins.collect(trees);
    const removed = await this.#content.collect(contents);
    if (removed.files > 0) this.#log.info(removed, 'content that nothing needs was removed');
  }

  // ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #wantRun(wanted: Wanted): void {
    this.#wanted = both(this.#wanted, wanted);
    this.#runAlarm.ring();
  }

  async #runLoop(unfinished: RunId[]): Promise<void> {
    const { runIntervalMs, splayMs } = this.#settings;
    for (const id of unfinished) await this.#recover(id);
    await this.#bound();
    let scheduledAt = firstAt(Date.now(), splayMs, Math.random());
    let failures = 0;
    for (;;) {
      await this.#runAlarm.until(this.#wanted && this.#ready() ? 0 : scheduledAt);
      if (this.#stop.aborted) return;
      if (!this.#wanted && Date.now() < scheduledAt) continue;
      if (!this.#ready()) {
        // Whatever is lacking rings when it has come.
        scheduledAt = Math.max(scheduledAt, Date.now() + 1000);
        continue;
      }
      const wanted = this.#wanted ?? { trigger: 'schedule', request: null };
      this.#wanted = null;
      scheduledAt = nextAt(Date.now(), runIntervalMs, Math.random());
      try {
        await this.#runOnce(wanted);
        failures = 0;
      } catch (error) {
        if (this.#stop.aborted) return;
        this.#log.error({ err: String(error) }, 'a run could not be made');
        this.#wanted = both(this.#wanted, wanted);
        await this.#pause(backoffMs(++failures, 1000, NODE_BACKOFF_MAX_MS, Math.random()), false);
      }
    }
  }

  #ready(): boolean {
    return this.#looked && this.#catalogs.current !== null && this.#complete && this.#hasFacts;
  }

  async #runOnce(wanted: Wanted): Promise<void> {
    const current = this.#catalogs.current!;
    const { request } = wanted;
    const noop = isNoop(this.#settings.noop, current.run_mode, request);
    const { puppet } = await this.#runner.warm();
    if (this.#stop.aborted) return;
    const id = runIdAt(Date.now(), randomBytes(10));
    const log = this.#log.child({ run: id });
    this.#running = { id, catalog: current.catalog, plugins: current.plugins };
    if (request) this.#taken.add(request.id);
    try {
      await this.#bound();
      const spooled = await this.#spool.begin(id, new Date(), {
        catalog: current.catalog,
        code_version: current.code_version,
        plugins: current.plugins,
        environment: current.environment,
        noop,
        request: request?.id ?? null,
        trigger: wanted.trigger,
        puppet_version: puppet,
      });
      log.info({ catalog: current.catalog, noop, trigger: wanted.trigger, request: request?.id }, 'the run starts');
      this.#delivery.ring();
      const end = await this.#apply(id, current, noop, spooled.path);
      const data = await this.#spool.finish(id, new Date(), {
        status: 'failed',
        exit_code: 1,
        reason: end.failed ?? `The run's process ended without a word (${end.signal ?? end.code})`,
        interrupted: true,
      });
      log.info({ status: data.status, exit_code: data.exit_code }, summary(wanted.trigger, noop, data, end));
      if (end.ended?.content_lacking) this.#complete = false;
    } finally {
      this.#running = null;
      await this.#bound();
      this.#delivery.ring();
      // A request may be waiting behind the one that was just served, and content may be lacking.
      if (request || !this.#complete) this.#catalogAlarm.ring();
    }
  }

  /** The run itself, and how a stop of the daemon reaches it: first it may end by itself, then after its resource, then not at all. */
  async #apply(id: RunId, current: CurrentCatalog, noop: boolean, events: string): Promise<JobEnd> {
    const done = new AbortController();
    const halt = async (): Promise<void> => {
      await sleep(this.#settings.runFinishMs ?? RUN_FINISH_MAX_MS, undefined, { signal: done.signal });
      this.#log.warn({ run: id }, 'the run did not end in time: it is stopped after its present resource');
      this.#runner.halt(id);
      await sleep(RUN_HALT_MAX_MS, undefined, { signal: done.signal });
      this.#runner.kill(id);
    };
    const onStop = (): void => void halt().catch(() => {});
    if (this.#stop.aborted) onStop();
    else this.#stop.addEventListener('abort', onStop, { once: true });
    try {
      return await this.#runner.run(
        {
          ...this.#puppetJob(current.plugins, current.environment, noop),
          id,
          catalog: this.#catalogs.path(current.catalog),
          content: this.#content.directory,
          facts: this.#facts.path,
          events,
          sequence: 2,
          events_bytes_max: RUN_EVENTS_BYTES_MAX,
        },
        {
          appended: (bytes) => {
            this.#spool.grown(id, bytes);
            this.#delivery.ring();
          },
        },
      );
    } catch (error) {
      return { code: null, signal: null, failed: error instanceof Error ? error.message : String(error) };
    } finally {
      done.abort();
      this.#stop.removeEventListener('abort', onStop);
    }
  }

  /** A run that an earlier daemon left without an end. */
  async #recover(id: RunId): Promise<void> {
    const pidFile = `${this.#spool.path(id)}.pid`;
    const pid = Number(await readFile(pidFile, 'utf8').catch(() => '0'));
    if (pid > 0) await waitForOrphan(pid, id);
    await rm(pidFile, { force: true });
    const end = await this.#spool.finish(id, new Date(), {
      status: 'failed',
      exit_code: 1,
      reason: 'The run was interrupted: the node daemon or its machine went down',
      interrupted: true,
    });
    this.#log.warn(
      { run: id, status: end.status },
      `the run was interrupted: ${end.reason ?? 'it had ended by itself'}`,
    );
    this.#delivery.ring();
  }

  async #bound(): Promise<void> {
    for (const { run, how, bytes } of await this.#spool.bound())
      this.#log.error(
        { run, bytes },
        `the spool is full: events of the run were ${how === 'shrunk' ? 'thinned out' : 'dropped'}`,
      );
  }

  // ── wake-ups ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #wakeupLoop(): Promise<void> {
    let failures = 0;
    while (!this.#stop.aborted) {
      try {
        for await (const { event } of this.#control.wakeups()) {
          if (event === 'open') {
            if (failures > 0) this.#log.info('the control plane is there again');
            failures = 0;
            // What was said while nobody listened is looked for.
            this.#delivery.back();
            this.#catalogAlarm.ring();
          } else if (event === 'run') this.#catalogAlarm.ring();
          else if (event === 'catalog')
            void this.#pause(this.#settings.wakeSplayMs).then(() => this.#catalogAlarm.ring());
          else if (event === 'facts') this.#factsAlarm.ring();
        }
      } catch (error) {
        if (this.#stop.aborted) return;
        if (failures === 0)
          this.#log.warn({ err: String(error) }, 'no wake-ups from the control plane; polling goes on');
      }
      failures++;
      await this.#pause(backoffMs(failures, 1000, NODE_BACKOFF_MAX_MS, Math.random()), false);
    }
  }

  // ── shared ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #puppetJob(plugins: ContentHash | null, environment: string, noop: boolean): PuppetJob {
    return {
      certname: this.#settings.certname,
      environment,
      directory: join(this.#settings.state, 'puppet'),
      plugins: plugins && this.#plugins.path(plugins),
      noop,
      log_level: this.#settings.logLevel,
      settings: this.#settings.puppetSettings,
    };
  }

  /** One after the other: what fetches or removes content. */
  #synced<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#syncing.then(work, work);
    this.#syncing = mine.catch(() => {});
    return mine;
  }

  /** A wait that a stop cuts short; of a random part of `ms`, or of all of it. */
  async #pause(ms: number, random = true): Promise<void> {
    await sleep(random ? ms * Math.random() : ms, undefined, { signal: this.#stop }).catch(() => {});
  }
}

/** The one line for people. */
function summary(trigger: string, noop: boolean, data: Record<string, unknown>, end: JobEnd): string {
  const resources = end.ended?.resources;
  const counts = resources
    ? `${resources.total} resources, ${resources.changed} changed, ${resources.out_of_sync} out of sync, ${resources.failed} failed, ${resources.skipped} skipped`
    : 'no resources';
  const seconds = end.ended?.seconds ? ` in ${end.ended.seconds.toFixed(2)} s` : '';
  const reason = data.reason ? `: ${data.reason}` : '';
  return `run (${trigger}${noop ? ', noop' : ''}) ${data.status}${seconds}: ${counts}${reason}`;
}
