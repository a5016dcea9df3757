import { CallboardError } from '../model/errors.ts';

const UNIT_MS = { ms: 1, s: 1000, m: 60_000, h: 3600_000, d: 86_400_000 };

/** `90s`, `30m`, `1h`, `2d`, `500ms`, or a bare number of seconds as Puppet has it; to milliseconds. */
export function parseDuration(setting: string, value: string): number {
  const match = /^(\d{1,9})(ms|s|m|h|d)?$/.exec(value);
  if (!match)
    throw new CallboardError('SETTING_INVALID', { setting, value, reason: 'is not a duration like 90s or 30m' });
  return Number(match[1]) * UNIT_MS[(match[2] ?? 's') as keyof typeof UNIT_MS];
}
