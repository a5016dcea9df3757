/**
 * PostgreSQL refuses to run as root. When we are root it runs as somebody else: an unprivileged user that exists already and
 * can reach both its programs and the state directory, or else, in a user namespace of its own, as somebody who is root
 * outside of it and nobody special inside, and so reaches whatever we reach.
 */
import { stat } from 'node:fs/promises';
import { execa } from 'execa';

/** As whom PostgreSQL's programs run. */
export type Account =
  | { kind: 'self' }
  | { kind: 'user'; name: string; uid: number; gid: number }
  | { kind: 'namespace'; uid: number; gid: number };

/** Tried in this order. Debian makes `postgres` with its own PostgreSQL; `nobody` is everywhere. */
const USERS = ['postgres', 'nobody'];
/** Who PostgreSQL is inside the namespace: anybody who has a name (it looks it up) and is not root. */
const NAMESPACE_USERS = ['postgres', 'daemon', 'nobody'];

/**
 * The account for data in `dataParent` and the programs in `programs`. The account that owns existing data is kept while it
 * can still reach it. Undefined where we are root and no way is open.
 */
export async function chooseAccount(
  dataParent: string,
  programs: string,
  ownerId: number | undefined,
): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return { kind: 'self' };
  const users = await Promise.all(USERS.map(findUser));
  const accounts: Account[] = users.filter((user) => user !== undefined).map((user) => ({ kind: 'user', ...user }));
  const inside = (await Promise.all(NAMESPACE_USERS.map(findUser))).find((user) => user !== undefined);
  if (inside) accounts.push({ kind: 'namespace', uid: inside.uid, gid: inside.gid });
  accounts.sort((a, b) => Number(ownerOf(b) === ownerId) - Number(ownerOf(a) === ownerId));
  for (const account of accounts) if (await works(account, dataParent, programs)) return account;
  return undefined;
}

/** The user id that an account's files have, as we see it. */
export function ownerOf(account: Account): number {
  return account.kind === 'user' ? account.uid : process.getuid!();
}

interface Command {
  file: string;
  args: string[];
  options: { uid?: number; gid?: number };
}

/** How to run a program as an account: its command line, and execa's options. */
export function runAs(account: Account, program: string, args: string[]): Command {
  if (account.kind === 'user') return { file: program, args, options: { uid: account.uid, gid: account.gid } };
  if (account.kind === 'namespace') {
    const map = ['--user', `--map-user=${account.uid}`, `--map-group=${account.gid}`];
    return { file: 'unshare', args: [...map, '--', program, ...args], options: {} };
  }
  return { file: program, args, options: {} };
}

/** Really runs the programs: mount options, missing libraries and closed folders on the way all show. */
async function works(account: Account, dataParent: string, programs: string): Promise<boolean> {
  for (const [program, args] of [
    ['test', ['-x', dataParent]],
    [`${programs}/initdb`, ['--version']],
    [`${programs}/postgres`, ['--version']],
  ] as const) {
    const command = runAs(account, program, [...args]);
    const { failed } = await execa(command.file, command.args, {
      ...command.options,
      cwd: '/',
      reject: false,
      stdio: 'ignore',
      timeout: 10_000,
    });
    if (failed) return false;
  }
  return true;
}

async function findUser(name: string): Promise<{ name: string; uid: number; gid: number } | undefined> {
  const { failed, stdout } = await execa('getent', ['passwd', name], { reject: false });
  const [, , uid, gid] = failed ? [] : stdout.split(':');
  if (!uid || !gid || Number(uid) === 0) return undefined;
  return { name, uid: Number(uid), gid: Number(gid) };
}

/** Who owns a directory, or undefined where there is none. */
export async function ownerId(directory: string): Promise<number | undefined> {
  return stat(directory).then(
    (found) => found.uid,
    () => undefined,
  );
}
