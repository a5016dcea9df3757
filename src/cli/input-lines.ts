/** Which inputs of two compiles differ, as lines for people. */
import pc from './colours.ts';

export interface Why {
  /** Whether it is known what both compiles read. */
  traced: boolean;
  facts_changed: boolean | null;
  inputs: { input: string; change: string; path?: string; near: boolean }[];
}

const INPUTS_MAX = 15;

export function inputLines({ traced, facts_changed, inputs }: Why): string[] {
  const near = inputs.filter((each) => each.near);
  const told = near.length > 0 ? near : inputs;
  const lines = [
    '',
    pc.bold(
      traced
        ? 'What was read and is different'
        : 'What is different in the code (what the compiles read of it was not recorded)',
    ),
    ...told.slice(0, INPUTS_MAX).map(({ input, change }) => `  ${change.padEnd(8)} ${input.replace('\t', ' ')}`),
  ];
  if (told.length > INPUTS_MAX) lines.push(`  and ${told.length - INPUTS_MAX} more`);
  if (near.length > 0 && near.length < inputs.length)
    lines.push(pc.dim(`  and ${inputs.length - near.length} that have nothing of its modules and classes: see --json`));
  if (told.length === 0) lines.push('  nothing');
  if (facts_changed && !traced) lines.push('  the facts are different, too');
  return lines;
}
