import pc from './colours.ts';

/** A run's status in the colour that people expect of it. */
export function statusColour(status: string): string {
  if (status === 'failed') return pc.red(status);
  if (status === 'changed') return pc.yellow(status);
  if (status === 'unchanged') return pc.green(status);
  return pc.dim(status);
}
