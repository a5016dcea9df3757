/**
 * The conditions of `--where`: `certname=web*`, `facts.os.family=Debian`, `facts.processors.count!=4`. A name in a path that
 * holds a dot stands in double quotes: `facts."a.b"=x`. Pure; the SQL is in `store.ts`.
 */
import { CallboardError } from '../model/errors.ts';
import { PLAN_CONDITIONS_MAX } from '../model/limits.ts';

export type Condition =
  /** A pattern of SQL's `like`. */
  | { kind: 'certname'; pattern: string; isNot: boolean }
  | { kind: 'fact'; path: string[]; value: string; isNot: boolean };

/** Throws REQUEST_INVALID. */
export function parseConditions(texts: readonly string[]): Condition[] {
  if (texts.length > PLAN_CONDITIONS_MAX)
    throw new CallboardError('REQUEST_INVALID', { reason: `There are more than ${PLAN_CONDITIONS_MAX} conditions` });
  return texts.map(parseCondition);
}

function parseCondition(text: string): Condition {
  const [, left, operator, value] = /^((?:"[^"]*"|[^"=!])+)(=|!=)(.*)$/s.exec(text) ?? [];
  const refuse = (reason: string) =>
    new CallboardError('REQUEST_INVALID', {
      reason: `'${text}' is no condition: ${reason}. Write certname=web* or facts.os.family=Debian`,
    });
  if (left === undefined || value === undefined) throw refuse('it has no name, or no = or !=');
  const isNot = operator === '!=';
  if (left === 'certname') return { kind: 'certname', pattern: likePattern(value), isNot };
  const path = [...left.matchAll(/"([^"]*)"(?:\.|$)|([^."]+)(?:\.|$)/gy)].map((match) => match[1] ?? match[2]!);
  const length = [...left.matchAll(/"([^"]*)"(?:\.|$)|([^."]+)(?:\.|$)/gy)].reduce((sum, [all]) => sum + all.length, 0);
  if (length !== left.length || left.endsWith('.')) throw refuse('its path cannot be read');
  if (path[0] !== 'facts' || path.length < 2) throw refuse(`'${left}' is neither certname nor a path of facts`);
  return { kind: 'fact', path: path.slice(1), value, isNot };
}

/** A glob of `*` and `?` as SQL's pattern. */
function likePattern(glob: string): string {
  return glob
    .replace(/[\\%_]/g, '\\$&')
    .replaceAll('*', '%')
    .replaceAll('?', '_');
}
