/** Which file names a code version may hold. Names come from other people's repositories: nothing about them is taken on trust. */
import { CallboardError } from '../model/errors.ts';
import { TREE_PATH_BYTES_MAX } from '../model/limits.ts';

/** What version control keeps for itself. Puppet's own plugin sync leaves out the same names. */
export const VERSION_CONTROL_NAMES: ReadonlySet<string> = new Set(['.git', '.svn', '.hg', 'CVS']);
/** Where a code version keeps what Callboard adds to the control repo. */
export const CALLBOARD_FOLDER = '.callboard';

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * A path inside a code version, from its bytes. Throws CODE_DEPLOY_FAILED for what is not UTF-8, holds control characters, is
 * too long, or has parts that mean something to a file system or to git.
 */
export function parseTreePath(bytes: Uint8Array): string {
  const path = decode(bytes, 'A file name');
  const shown = JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path);
  const refuse = (reason: string) =>
    new CallboardError('CODE_DEPLOY_FAILED', { reason: `The file name ${shown} ${reason}` });
  if (/[\x00-\x1f\x7f]/.test(path)) throw refuse('holds control characters');
  if (bytes.length > TREE_PATH_BYTES_MAX) throw refuse(`is longer than ${TREE_PATH_BYTES_MAX} bytes`);
  for (const part of path.split('/')) {
    if (part === '' || part === '.' || part === '..') throw refuse('is not a plain path');
    if (part.toLowerCase() === '.git') throw refuse("has a part named '.git'");
    if (Buffer.byteLength(part) > 255) throw refuse('has a part longer than 255 bytes');
  }
  return path;
}

/** A link's target, from its bytes: any text that can stand in a manifest. */
export function parseLinkTarget(bytes: Uint8Array, link: string): string {
  const target = decode(bytes, `The target of the link '${link}'`);
  if (/[\x00-\x1f\x7f]/.test(target) || bytes.length > TREE_PATH_BYTES_MAX || bytes.length === 0) {
    throw new CallboardError('CODE_DEPLOY_FAILED', {
      reason: `The target of the link '${link}' is empty, too long or holds control characters`,
    });
  }
  return target;
}

function decode(bytes: Uint8Array, what: string): string {
  try {
    return UTF8.decode(bytes);
  } catch {
    const shown = JSON.stringify(Buffer.from(bytes.subarray(0, 200)).toString('latin1'));
    throw new CallboardError('CODE_DEPLOY_FAILED', { reason: `${what} is not UTF-8: ${shown}` });
  }
}
