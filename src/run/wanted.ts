/** Which run is wanted next, and whether it may change anything. Pure. */

export type RunMode = 'do' | 'noop';
/** What made a run necessary; more than one wish at a time is one run, under the weightiest cause. */
export type Trigger = 'schedule' | 'catalog' | 'request';

/** An operator's wish, as the control plane hands it on. */
export interface RunRequest {
  id: string;
  mode: RunMode | 'policy';
}

export interface Wanted {
  trigger: Trigger;
  request: RunRequest | null;
}

const WEIGHT: Record<Trigger, number> = { schedule: 0, catalog: 1, request: 2 };

/** Two wishes in one: the run that serves the weightier serves the other too. */
export function both(a: Wanted | null, b: Wanted): Wanted {
  return a === null || WEIGHT[b.trigger] > WEIGHT[a.trigger] ? b : a;
}

/**
 * Whether a run changes nothing. The node's own --noop always wins: who has the machine decides. Then what the request
 * says, and without a word there, the mode that the control plane serves.
 */
export function isNoop(nodeNoop: boolean, servedMode: RunMode, request: RunRequest | null): boolean {
  if (nodeNoop) return true;
  if (request && request.mode !== 'policy') return request.mode === 'noop';
  return servedMode === 'noop';
}

/** Reads `<uuid>;mode=noop|do|policy`. Null when the header is absent or not of this form. */
export function parseRunRequest(header: string | undefined): RunRequest | null {
  const match = /^([0-9a-f-]{36});\s*mode=(noop|do|policy)$/.exec(header ?? '');
  return match ? { id: match[1]!, mode: match[2] as RunRequest['mode'] } : null;
}
