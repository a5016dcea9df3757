/**
 * Every setting of the control plane, once: its name, type, unit, default and sentence. The flags of `callboard server`, its
 * help and the environment variables are made from this list. A flag wins over its variable, which wins over the
 * default. Reading settings is pure: nothing here looks at files or at the network.
 */
import { availableParallelism, hostname } from 'node:os';
import { isAbsolute, resolve } from 'node:path';
import { CallboardError } from '../model/errors.ts';
import { COMPILE_MEMORY_MAX_BYTES, COMPILE_TIME_MAX_MS } from '../model/limits.ts';

/** What one process can do. `api` is HTTP: every route and stream; the others run the jobs of their room. */
export const SERVICES = ['api', 'truth', 'compile', 'content', 'report'] as const;
export type Service = (typeof SERVICES)[number];

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Where a socket listens. */
export interface Endpoint {
  host: string;
  port: number;
}

export interface Setting<Value> {
  /** As in the flag without its dashes. */
  name: string;
  /** What stands for the value in help: `DIR`, `HOST:PORT`, … */
  value: string;
  /** One sentence, with the unit where there is one. */
  sentence: string;
  /** As one would write it; undefined: unset. */
  default: string | undefined;
  /** Never shown in errors and logs. */
  secret?: true;
  /** Gives the value, or throws `Unacceptable`. */
  parse(text: string): Value;
}

/** Why a setting's text is not one; becomes SETTING_INVALID. */
class Unacceptable extends Error {}

const SETTINGS = {
  state: setting({
    name: 'state',
    value: 'DIR',
    sentence: 'Where the server keeps its files: database, content, code, keys.',
    default: '/var/lib/callboard',
    parse: (text) => resolve(notEmpty(text)),
  }),
  listen: setting({
    name: 'listen',
    value: 'HOST:PORT',
    sentence: 'Address of the TLS port for nodes and operators.',
    default: '0.0.0.0:8140',
    parse: endpoint,
  }),
  databaseUrl: optional({
    name: 'database-url',
    value: 'URL',
    sentence: 'A PostgreSQL of 15 or newer to use instead of the embedded one.',
    secret: true,
    parse(text) {
      if (!/^postgres(ql)?:\/\//.test(text) || !URL.canParse(text)) throw new Unacceptable('is not a postgres:// URL');
      return text;
    },
  }),
  only: setting({
    name: 'only',
    value: 'SERVICE,…',
    sentence: `The services of this process: ${SERVICES.join(', ')}.`,
    default: SERVICES.join(','),
    parse(text): ReadonlySet<Service> {
      const names = text.split(',').map((name) => name.trim());
      const unknown = names.find((name) => !(SERVICES as readonly string[]).includes(name));
      if (unknown !== undefined) throw new Unacceptable(`names '${unknown}'; the services are ${SERVICES.join(', ')}`);
      return new Set(names as Service[]);
    },
  }),
  serverName: setting({
    name: 'server-name',
    value: 'NAME',
    sentence: "The name that nodes call this server by: in its certificate, and Puppet's $servername.",
    default: hostname().toLowerCase(),
    parse(text) {
      if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(text)) throw new Unacceptable('is not a host name');
      return text;
    },
  }),
  baseModulepath: setting({
    name: 'base-modulepath',
    value: 'DIR:…',
    sentence: "Puppet's $basemodulepath: modules outside of every environment. May be empty.",
    default: '/etc/puppet/code/modules:/usr/share/puppet/modules',
    parse: (text) => text.split(':').filter(Boolean).map(absolute),
  }),
  fileserverConf: optional({
    name: 'fileserver-conf',
    value: 'FILE',
    sentence: "Puppet's fileserver.conf, for custom mounts.",
    parse: absolute,
  }),
  r10k: setting({
    name: 'r10k',
    value: 'COMMAND',
    sentence: 'The r10k that resolves a Puppetfile: a name to look up, or a path.',
    default: 'r10k',
    parse: notEmpty,
  }),
  r10kConfig: optional({
    name: 'r10k-config',
    value: 'FILE',
    sentence: "The site's r10k.yaml: its forge, git, proxy and pool_size count when r10k resolves a Puppetfile.",
    parse: absolute,
  }),
  g10k: optional({
    name: 'g10k',
    value: 'COMMAND',
    sentence: 'A g10k that resolves Puppetfiles in the place of r10k: a name to look up, or a path.',
    parse: notEmpty,
  }),
  compileWorkers: setting({
    name: 'compile-workers',
    value: 'COUNT',
    sentence: 'How many catalogs compile at once.',
    default: String(availableParallelism()),
    parse: (text) => count(text, 1, 256),
  }),
  compileTimeMaxMs: setting({
    name: 'compile-time-max',
    value: 'DURATION',
    sentence: 'How long one compile may take, such as 90s or 5m.',
    default: `${COMPILE_TIME_MAX_MS / 1000}s`,
    parse: (text) => duration(text, 1_000, 3_600_000),
  }),
  compileMemoryMaxBytes: setting({
    name: 'compile-memory-max',
    value: 'SIZE',
    sentence: 'How much memory one compile may take, such as 512MiB or 2GiB.',
    default: `${COMPILE_MEMORY_MAX_BYTES / 1024 / 1024}MiB`,
    parse: (text) => size(text, 64 * 1024 ** 2, 64 * 1024 ** 3),
  }),
  catalogKeyFile: optional({
    name: 'catalog-key-file',
    value: 'FILE',
    sentence:
      'The key that catalogs are encrypted with at rest. Default: catalog.key in the state directory, made at first start.',
    parse: absolute,
  }),
  metricsListen: setting({
    name: 'metrics-listen',
    value: 'HOST:PORT',
    sentence: 'Loopback address of /metrics without an identity, or off.',
    default: '127.0.0.1:8141',
    parse(text): Endpoint | undefined {
      if (text === 'off') return undefined;
      const found = endpoint(text);
      if (!/^(127(\.\d+){3}|::1|localhost)$/.test(found.host)) throw new Unacceptable('is not a loopback address');
      return found;
    },
  }),
  eventsKeepDays: setting({
    name: 'events-keep',
    value: 'DAYS',
    sentence: 'For how many days runs and their events are kept.',
    default: '30',
    parse: (text) => count(text, 1, 36_500),
  }),
  compilesKeepDays: setting({
    name: 'compiles-keep',
    value: 'DAYS',
    sentence: 'For how many days ended compiles are listed.',
    default: '90',
    parse: (text) => count(text, 1, 36_500),
  }),
  logLevel: setting({
    name: 'log-level',
    value: 'LEVEL',
    sentence: `What is logged: ${LOG_LEVELS.join(', ')}.`,
    default: 'info',
    parse(text): LogLevel {
      if (!(LOG_LEVELS as readonly string[]).includes(text))
        throw new Unacceptable(`is none of ${LOG_LEVELS.join(', ')}`);
      return text as LogLevel;
    },
  }),
};

/** What a server runs with. */
export type Settings = { [Key in keyof typeof SETTINGS]: ReturnType<(typeof SETTINGS)[Key]['parse']> };

/** For help and documentation, in order. */
export function listSettings(): (Setting<unknown> & { flag: string; variable: string })[] {
  return Object.values(SETTINGS).map((each: Setting<unknown>) => ({
    ...each,
    flag: `--${each.name} <${each.value}>`,
    variable: variable(each.name),
  }));
}

/**
 * The settings from flags and environment variables. `flags` is what commander's `opts()` gives for the flags of
 * `listSettings()`: keys in camel case. Throws SETTING_INVALID, naming the flag or variable at fault.
 */
export function parseSettings(flags: Record<string, unknown>, variables: NodeJS.ProcessEnv): Settings {
  const settings = Object.entries(SETTINGS).map(([key, each]: [string, Setting<unknown>]) => {
    const flag = flags[camelCase(each.name)];
    const [text, from] =
      typeof flag === 'string'
        ? [flag, `--${each.name}`]
        : variables[variable(each.name)]
          ? [variables[variable(each.name)], variable(each.name)]
          : [each.default, `--${each.name}`];
    try {
      return [key, text === undefined ? undefined : each.parse(text)];
    } catch (error) {
      if (!(error instanceof Unacceptable)) throw error;
      const value = each.secret ? '…' : text;
      throw new CallboardError('SETTING_INVALID', { setting: from, value, reason: error.message });
    }
  });
  return Object.fromEntries(settings) as Settings;
}

function setting<Value>(each: Setting<Value>): Setting<Value> {
  return each;
}

function optional<Value>(each: Omit<Setting<Value>, 'default'>): Setting<Value | undefined> {
  return { ...each, default: undefined };
}

function variable(name: string): string {
  return `CALLBOARD_${name.toUpperCase().replaceAll('-', '_')}`;
}

function camelCase(name: string): string {
  return name.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function notEmpty(text: string): string {
  if (text === '') throw new Unacceptable('is empty');
  return text;
}

function absolute(text: string): string {
  if (!isAbsolute(text)) throw new Unacceptable('is not an absolute path');
  return text;
}

function endpoint(text: string): Endpoint {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw new Unacceptable('is not HOST:PORT');
  return { host: match[1] ?? match[2]!, port };
}

function count(text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new Unacceptable(`is not a whole number from ${min} to ${max}`);
  }
  return value;
}

const DURATIONS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const;

function duration(text: string, minMs: number, maxMs: number): number {
  const match = /^(\d+)(ms|s|m|h)$/.exec(text);
  const value = match ? Number(match[1]) * DURATIONS[match[2] as keyof typeof DURATIONS] : Number.NaN;
  if (!(value >= minMs && value <= maxMs)) {
    throw new Unacceptable(`is not a duration such as 90s or 5m, from ${minMs / 1000}s to ${maxMs / 1000}s`);
  }
  return value;
}

const SIZES = { KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 } as const;

function size(text: string, minBytes: number, maxBytes: number): number {
  const match = /^(\d+)(KiB|MiB|GiB)$/.exec(text);
  const value = match ? Number(match[1]) * SIZES[match[2] as keyof typeof SIZES] : Number.NaN;
  if (!(value >= minBytes && value <= maxBytes)) {
    const MiB = 1024 ** 2;
    throw new Unacceptable(`is not a size such as 512MiB or 2GiB, from ${minBytes / MiB}MiB to ${maxBytes / MiB}MiB`);
  }
  return value;
}
