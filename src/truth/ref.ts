/** Which repositories and references may be named, before git sees them: nothing that git could take for an option or a program. */
import { CallboardError } from '../model/errors.ts';

const SCHEMES = new Set(['http:', 'https:', 'ssh:', 'git:', 'file:']);
const TEXT_BYTES_MAX = 2048;

/**
 * A control repo as an operator names it: an absolute path, a URL that git can fetch, or `user@host:path`. Throws
 * REPOSITORY_INVALID. Transports that run a command (`ext::…`) are refused here, and to git by GIT_ALLOW_PROTOCOL.
 */
export function checkRepository(value: string): string {
  const refuse = (reason: string) =>
    new CallboardError('REPOSITORY_INVALID', { value: shownRepository(value), reason });
  if (value === '' || value.startsWith('-')) throw refuse('it is no path and no URL');
  if (Buffer.byteLength(value) > TEXT_BYTES_MAX) throw refuse(`it is longer than ${TEXT_BYTES_MAX} bytes`);
  if (/[\x00-\x1f\x7f]/.test(value)) throw refuse('it holds control characters');
  if (value.startsWith('/')) return value;
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(value)) {
    if (!URL.canParse(value)) throw refuse('it is not a URL');
    const url = new URL(value);
    if (!SCHEMES.has(url.protocol)) throw refuse(`'${url.protocol}' is not one of ${[...SCHEMES].join(' ')}`);
    if (decodeURIComponentSafe(url.hostname).startsWith('-')) throw refuse('its host begins with a dash');
    return value;
  }
  if (value.includes('::')) throw refuse('it names a transport of git that may run commands');
  if (/^([\w.][\w.-]*@)?[\w[][\w.:[\]-]*:[^-:]/.test(value)) return value;
  throw refuse('it is no absolute path and no URL');
}

/** A branch, tag, full reference or commit. Throws GIT_REF_INVALID. The rules are those of git-check-ref-format, and no dash first. */
export function checkRef(value: string): string {
  const wrong =
    value === '' ||
    value === '@' ||
    Buffer.byteLength(value) > 255 ||
    /^[-/.]|[\x00-\x20\x7f~^:?*[\\]|\.\.|\/\/|@\{|[/.]$|\.lock(\/|$)|\/\./.test(value);
  if (wrong) throw new CallboardError('GIT_REF_INVALID', { value });
  return value;
}

/** Whether a reference may be a commit, whole or cut. */
export function looksLikeCommit(ref: string): boolean {
  return /^[0-9a-f]{7,64}$/.test(ref);
}

/** A repository for people's eyes: a URL's password is never shown. */
export function shownRepository(value: string): string {
  return value.replace(/^([a-z][a-z0-9+.-]*:\/\/)([^/@]*)@/i, (_, scheme: string, who: string) => {
    const [user, secret] = [who.split(':')[0], who.includes(':')];
    return secret ? `${scheme}${user}:***@` : `${scheme}${who.length > 20 ? '***' : who}@`;
  });
}

/** What must not stand in a log: the passwords of a repository's URL, as written and decoded. */
export function secretsOf(repository: string): string[] {
  const who = /^[a-z][a-z0-9+.-]*:\/\/([^/@]*)@/i.exec(repository)?.[1];
  if (!who) return [];
  const secret = who.includes(':') ? who.slice(who.indexOf(':') + 1) : who.length > 20 ? who : '';
  return [...new Set([secret, decodeURIComponentSafe(secret)])].filter((text) => text.length > 0);
}

function decodeURIComponentSafe(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
