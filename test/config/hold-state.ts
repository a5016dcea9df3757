/** Takes a state directory, says so or why not, and holds it until it is killed. */
import { openStateDirectory } from '../../src/config/state.ts';

try {
  await openStateDirectory(process.argv[2]!);
  console.log('held');
  setInterval(() => {}, 1000);
} catch (error) {
  console.log((error as { code?: string }).code ?? error);
}
