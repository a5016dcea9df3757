import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { createLogger } from '../config/log.ts';
import { CallboardError } from '../model/errors.ts';
import { parseCertname, parseEnvironmentName } from '../model/ids.ts';
import { runNode } from '../run/daemon.ts';
import { parseDuration } from '../run/duration.ts';

export function nodeCommand(): Command {
  return new Command('node')
    .description(
      'the node daemon: sends facts, fetches the released catalog and its content, runs Puppet from local files, streams what happens',
    )
    .requiredOption('--server <url>', 'the control plane, https://HOST:8140')
    .requiredOption('--certname <name>', "this node's name, as in its certificate")
    .requiredOption('--state <directory>', 'where the daemon keeps catalogs, content, events and Puppet its state')
    .option(
      '--ssldir <directory>',
      "certs/ca.pem, certs/NAME.pem and private_keys/NAME.pem (default: 'ssl' in the state)",
    )
    .option('--environment <name>', 'the environment to ask for (default: the one of its catalog, or production)')
    .option('--noop', 'never change anything, whatever the control plane says', false)
    .option('--facts-interval <duration>', 'how often facts are collected, at least', '30m')
    .option('--run-interval <duration>', 'how often Puppet runs, at least', '30m')
    .option('--poll-interval <duration>', 'how often to look for a catalog when no wake-up comes, at least', '2m')
    .option('--splay <duration>', 'first actions after a start are spread over this time', '10s')
    .option('--wake-splay <duration>', 'what follows a wake-up is spread over this time', '1s')
    .option('--log-level <level>', "Puppet's log level in runs: debug, info, notice, warning, err", 'notice')
    .option('--puppet-setting <name=value>', 'a further setting of Puppet (repeatable)', collect, [])
    .option('--ruby <path>', 'the Ruby that has Puppet')
    .addHelpText(
      'after',
      `
Durations are like 90s, 30m, 12h. SIGTERM and SIGINT let a run that is under way end first.

Example:
  callboard cert issue web1.example --out /etc/callboard/ssl      (on the control plane; copy the directory)
  callboard node --server https://callboard.example:8140 --certname web1.example \\
    --state /var/lib/callboard-node --ssldir /etc/callboard/ssl

Exit codes: 0 stopped, 1 could not start, 2 used wrongly.`,
    )
    .action(async (flags) => {
      const stop = new AbortController();
      // Kept on: execa's own listener ends the process where no other one is left.
      for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop.abort());
      const state = resolve(flags.state);
      await runNode(
        {
          server: serverUrl(flags.server),
          certname: parseCertname(flags.certname),
          state,
          ssldir: flags.ssldir ? resolve(flags.ssldir) : join(state, 'ssl'),
          environment: flags.environment ? parseEnvironmentName(flags.environment) : null,
          noop: flags.noop,
          factsIntervalMs: parseDuration('--facts-interval', flags.factsInterval),
          runIntervalMs: parseDuration('--run-interval', flags.runInterval),
          pollIntervalMs: parseDuration('--poll-interval', flags.pollInterval),
          splayMs: parseDuration('--splay', flags.splay),
          wakeSplayMs: parseDuration('--wake-splay', flags.wakeSplay),
          logLevel: flags.logLevel,
          puppetSettings: Object.fromEntries(flags.puppetSetting),
          ruby: flags.ruby,
        },
        createLogger({ level: 'info' }),
        stop.signal,
      );
    });
}

function collect(value: string, all: [string, string][]): [string, string][] {
  const match = /^([a-z_]+)=(.*)$/s.exec(value);
  if (!match)
    throw new CallboardError('SETTING_INVALID', { setting: '--puppet-setting', value, reason: 'is not name=value' });
  return [...all, [match[1]!, match[2]!]];
}

function serverUrl(value: string): string {
  const url = URL.parse(value);
  if (url?.protocol !== 'https:')
    throw new CallboardError('SETTING_INVALID', { setting: '--server', value, reason: 'is not an https:// URL' });
  return url.origin;
}
