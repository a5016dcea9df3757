/** The command line: one file a command. Answers go to stdout, everything said to people about them to stderr. */
import { Command, CommanderError } from 'commander';
import { CallboardError } from '../model/errors.ts';
import { ApiError } from './client.ts';
import pc from './colours.ts';

/** Exit codes: 0 done, 1 failed or refused, 2 used wrongly. A command with more says so in its help. */
export async function runProgram(argv: string[]): Promise<void> {
  const program = new Command('callboard')
    .description(
      'An asynchronous control plane for Puppet: compiles ahead of time, shows what would change, releases in steps.',
    )
    .version(process.env.npm_package_version ?? '0.1.0')
    .showHelpAfterError('(add --help for what it takes)')
    .exitOverride();
  for (const command of await commands()) program.addCommand(command);
  try {
    await program.parseAsync(argv);
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else {
      process.stderr.write(`${describe(error)}\n`);
      process.exitCode ||= 1;
    }
  }
}

/** In the order of the flow. Each file brings its own libraries, so only the one that is asked for is loaded with care. */
async function commands(): Promise<Command[]> {
  const [
    server,
    cert,
    operator,
    nodes,
    environment,
    code,
    release,
    diff,
    plan,
    explain,
    history,
    bisect,
    catalog,
    runs,
    watch,
    queue,
    gc,
  ] = await Promise.all([
    import('./server.ts'),
    import('./cert.ts'),
    import('./operator.ts'),
    import('./nodes.ts'),
    import('./environment.ts'),
    import('./code.ts'),
    import('./release.ts'),
    import('./diff.ts'),
    import('./plan.ts'),
    import('./explain.ts'),
    import('./history.ts'),
    import('./bisect.ts'),
    import('./catalog.ts'),
    import('./runs.ts'),
    import('./watch.ts'),
    import('./queue.ts'),
    import('./gc.ts'),
  ]);
  return [
    server.serverCommand(),
    cert.certCommand(),
    operator.operatorCommand(),
    nodes.nodesCommand(),
    environment.environmentCommand(),
    code.codeCommand(),
    plan.planCommand(),
    diff.diffCommand(),
    release.releaseCommand(),
    release.rollbackCommand(),
    release.pinCommand(),
    release.unpinCommand(),
    explain.explainCommand(),
    history.historyCommand(),
    bisect.bisectCommand(),
    catalog.catalogCommand(),
    runs.runCommand(),
    watch.watchCommand(),
    queue.queueCommand(),
    gc.gcCommand(),
  ];
}

function describe(error: unknown): string {
  if (error instanceof CallboardError || error instanceof ApiError)
    return `${pc.red('Error:')} ${error.message} ${pc.dim(`(${error.code})`)}\n${error.hint}`;
  return `${pc.red('Error:')} ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}
