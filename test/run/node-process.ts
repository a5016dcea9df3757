/** The node daemon as a process of its own, for tests that kill it. */
import { nodeCommand } from '../../src/cli/node.ts';

await nodeCommand().parseAsync(process.argv);
