/** Which inputs of two compiles differ, as lines for people. */
import pc from './colours.ts';

export interface Why {
  /** Whether it is known what both compiles read. */
  traced: boolean;
  facts_changed: boolean | null;
  inputs: { input: string; change: string; path?: string; near: boolean }[];
}

const INPUTS_MAX = 15;

/** Those of the modules and classes in question come first, as the server puts them. */
export function inputLines({ traced, facts_changed, inputs }: Why): string[] {
  const lines = [
    '',
    pc.bold(
      traced
        ? 'What was read and is different'
        : 'What is different in the code (what the compiles read of it was not recorded)',
    ),
    ...inputs.slice(0, INPUTS_MAX).map(({ input, change, near }) => {
      const line = `  ${change.padEnd(8)} ${input.replace('\t', ' ')}`;
      return near ? line : pc.dim(line);
    }),
  ];
  if (inputs.length > INPUTS_MAX) lines.push(`  and ${inputs.length - INPUTS_MAX} more: see --json`);
  if (inputs.length === 0) lines.push('  nothing');
  if (facts_changed && !traced) lines.push('  the facts are different, too');
  return lines;
}
