/**
 * environment.conf and the modulepath it means. Puppet's rules (`settings/environment_conf.rb`, `settings/config_file.rb`): no
 * sections but `main`, the first setting of a name counts, entries that do not begin with `$` are relative to the environment.
 * Entries outside the environment are the server's modules; a code version takes them in, so that it needs no server.
 */
import { posix } from 'node:path';
import { CallboardError } from '../model/errors.ts';

/** Puppet's rule for what is a module in a modulepath directory (`Puppet::Module.is_module_directory_name?`). */
const MODULE_NAME = /^[a-z][a-z0-9_]*$/;
/** Where Puppet's packages keep environments; a modulepath that spells out its own environment's place means the repo. */
const ENVIRONMENT_PATHS = ['/etc/puppetlabs/code/environments', '/etc/puppet/code/environments'];
const DEFAULT_MODULEPATH = 'modules:$basemodulepath';

export interface ModulepathEntry {
  /** `repo`: relative to the code version's root. `server`: an absolute path on the machine that deploys. */
  place: 'repo' | 'server';
  path: string;
  /** The path has wildcards: it stands for every directory that matches, in order. */
  pattern: boolean;
}

export function isModuleName(name: string): boolean {
  return MODULE_NAME.test(name);
}

/** Settings of an environment.conf. Throws CODE_DEPLOY_FAILED for a line that Puppet refuses. */
export function readEnvironmentConf(text: string): Map<string, string> {
  const settings = new Map<string, string>();
  let section = 'main';
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const heading = /^\s*\[(\w+)\]\s*$/.exec(line);
    const setting = /^\s*(\w+)\s*=\s*(.*?)\s*$/.exec(line);
    if (heading) section = heading[1]!;
    else if (setting) {
      if (section === 'main' && !settings.has(setting[1]!)) settings.set(setting[1]!, setting[2]!);
    } else if (!/^\s*(#|$)/.test(line)) {
      throw refuse(`environment.conf, line ${index + 1}: cannot be read as a setting: ${line.slice(0, 200)}`);
    }
  }
  return settings;
}

/** The entries of a modulepath, in order, each once. */
export function planModulepath(
  setting: string | undefined,
  context: { environment: string; basemodulepath: readonly string[] },
): ModulepathEntry[] {
  const entries: ModulepathEntry[] = [];
  const add = (entry: ModulepathEntry): void => {
    if (!entries.some((other) => other.place === entry.place && other.path === entry.path)) entries.push(entry);
  };
  for (const piece of (setting || DEFAULT_MODULEPATH).split(':')) {
    if (piece === '') continue;
    if (/^\$(basemodulepath|\{basemodulepath\})$/.test(piece)) {
      for (const path of context.basemodulepath) add(entryFor(path, context.environment));
    } else {
      add(entryFor(piece, context.environment));
    }
  }
  return entries;
}

function entryFor(piece: string, environment: string): ModulepathEntry {
  const path = piece
    .replace(/\$(environmentpath|\{environmentpath\})(?=\/)/, ENVIRONMENT_PATHS[0]!)
    .replace(/\$(environment|\{environment\})(?!\w)/g, environment);
  const unknown = /\$\{?\w+\}?/.exec(path);
  if (unknown) throw refuse(`The modulepath entry '${piece}' uses ${unknown[0]}, which is not known here`);
  if (path.startsWith('~')) throw refuse(`The modulepath entry '${piece}' is relative to a home directory`);
  const pattern = /[*?[{]/.test(path);
  const plain = posix.normalize(path).replace(/\/+$/, '') || '/';
  for (const folder of ENVIRONMENT_PATHS) {
    const own = `${folder}/${environment}`;
    if (plain === own) return { place: 'repo', path: '.', pattern };
    if (plain.startsWith(`${own}/`)) return { place: 'repo', path: plain.slice(own.length + 1), pattern };
  }
  if (plain.startsWith('/')) return { place: 'server', path: plain, pattern };
  if (plain === '..' || plain.startsWith('../')) {
    throw refuse(`The modulepath entry '${piece}' leaves the control repo`);
  }
  return { place: 'repo', path: plain, pattern };
}

function refuse(reason: string): CallboardError {
  return new CallboardError('CODE_DEPLOY_FAILED', { reason });
}
