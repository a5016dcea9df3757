import { Command } from 'commander';
import { startServer } from '../app.ts';
import { createLogger } from '../config/log.ts';
import { listSettings, parseSettings } from '../config/settings.ts';
import { STOP_TIME_MAX_MS } from '../model/limits.ts';

export function serverCommand(): Command {
  const command = new Command('server').description('run the control plane; stops cleanly on SIGTERM or SIGINT');
  for (const setting of listSettings()) {
    const usual = setting.default === undefined ? '' : `; default ${setting.default}`;
    command.option(setting.flag, `${setting.sentence} (${setting.variable}${usual})`);
  }
  return command
    .addHelpText('after', '\nExample:\n  callboard server --state /var/lib/callboard --listen 0.0.0.0:8140')
    .action(async (flags) => {
      const settings = parseSettings(flags, process.env);
      const logger = createLogger({ level: settings.logLevel });
      // Heeded from the first moment: what was started when the signal comes is stopped as soon as it can be.
      const starting = startServer(settings, logger);
      let stopping = false;
      const stop = (signal: NodeJS.Signals): void => {
        if (stopping) return;
        stopping = true;
        logger.info({ signal }, 'stopping');
        // What does not end in time is ended; nothing is lost by it.
        setTimeout(() => process.exit(1), STOP_TIME_MAX_MS).unref();
        starting
          .then((server) => server.stop())
          .then(
            () => {
              logger.info('stopped');
              process.exit(0);
            },
            (error) => {
              logger.error({ err: error }, 'stopping failed');
              process.exit(1);
            },
          );
      };
      process.on('SIGTERM', stop);
      process.on('SIGINT', stop);
      await starting;
    });
}
