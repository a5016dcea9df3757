/** One event of a run, or of the control plane, as a line for people. */
import pc from './colours.ts';
import { short } from './table.ts';

export interface RunEventView {
  certname?: string;
  run?: string;
  sequence: number;
  at: string;
  kind: 'start' | 'resource' | 'log' | 'end';
  // Puppet's own words: resource status, log message.
  data: Record<string, unknown>;
}

interface PropertyEvent {
  status: string;
  property: string | null;
  previous_value: unknown;
  desired_value: unknown;
  message: string;
}

const LOUD = new Set(['warning', 'err', 'alert', 'emerg', 'crit']);

/** Undefined where there is nothing to say: a resource that was as it should be. */
export function runEventLine(event: RunEventView, options: { quietResources: boolean }): string | undefined {
  const { data } = event;
  switch (event.kind) {
    case 'start':
      return `${pc.bold('run starts')}${data.noop ? ' (noop)' : ''}: catalog ${short(data.catalog as string)} under code ${short(data.code_version as string)}`;
    case 'end':
      return `${pc.bold('run ended')}: ${statusWord(data.status as string)}`;
    case 'log': {
      const level = String(data.level);
      // Puppet logs each change of a resource as a notice; the resource's own event says the same.
      if (level === 'notice' && options.quietResources && String(data.source).startsWith('/Stage[')) return undefined;
      const text = `${String(data.source)}: ${String(data.message)}`;
      return LOUD.has(level) ? pc.red(`${level}: ${text}`) : `${level}: ${text}`;
    }
    case 'resource': {
      const happened = ((data.events as PropertyEvent[] | undefined) ?? []).filter((each) => each.status !== 'audit');
      if (happened.length === 0 && !data.failed) {
        if (data.skipped) return pc.dim(`${String(data.resource)} skipped`);
        return options.quietResources ? undefined : pc.dim(`${String(data.resource)} as it should be`);
      }
      const words = happened.map((each) => (each.status === 'noop' ? wouldChange(each) : each.message));
      const line = `${String(data.resource)} ${words.join('; ')}`;
      return data.failed ? pc.red(line) : data.corrective_change ? pc.magenta(`${line} (corrective)`) : pc.yellow(line);
    }
  }
}

/** Puppet's own message of a noop event speaks of current_value; people want to know from what to what. */
function wouldChange({ property, previous_value, desired_value, message }: PropertyEvent): string {
  if (!property) return `would: ${message}`;
  return `would change ${property}: ${String(previous_value)} → ${String(desired_value)}`;
}

function statusWord(status: string): string {
  if (status === 'failed') return pc.red(status);
  return status === 'changed' ? pc.yellow(status) : pc.green(status);
}
