/**
 * Operators' tokens, made on the server's machine before anybody has one: straight in the database that the state directory
 * names. The server must run, or have its database elsewhere (--database-url).
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import type pg from 'pg';
import { insertAudit } from '../http/audit.ts';
import { openCa } from '../http/ca.ts';
import { ROLES, type Role } from '../http/identity.ts';
import { createToken, listTokens, revokeToken, type Token } from '../http/tokens.ts';
import { CallboardError } from '../model/errors.ts';
import { type Database, isDatabaseAway, openDatabase, openPool } from '../postgres/database.ts';
import { CONFIG_FILE } from './client.ts';
import { ago, table } from './table.ts';

const DAYS = 365;
const SERVER = 'https://localhost:8140';

interface StateFlags {
  state: string;
  databaseUrl?: string;
}

export function operatorCommand(): Command {
  const operator = new Command('operator').description('who may use the API, and as what');
  const token = operator.command('token').description("operators' tokens, on the server's machine");

  withState(token.command('create'))
    .description('make a token and print it, this once')
    .addOption(new Option('--role <role>', 'what it may do').choices(ROLES).makeOptionMandatory())
    .option('--name <name>', 'who it is for: what the audit shows', userInfo().username)
    .option('--days <days>', 'how long it is valid', positive, DAYS)
    .option('--save', `keep it, and the CA to believe, for this user's commands, in ${CONFIG_FILE}`)
    .option(
      '--server <url>',
      'with --save: where those commands find the server (CALLBOARD_SERVER)',
      process.env.CALLBOARD_SERVER ?? SERVER,
    )
    .addHelpText(
      'after',
      '\nExample:\n  callboard operator token create --role admin --save --state /var/lib/callboard',
    )
    .action(async (flags: StateFlags & { role: Role; name: string; days: number; save?: boolean; server: string }) => {
      const { name, role, days } = flags;
      const made = await inDatabase(flags, async (db) => {
        const created = await createToken(db, { name, role, days });
        await audit(db, 'operator token create', `${role} ${name} ${created.id}`);
        return created;
      });
      if (flags.save) {
        const file = await save(flags, made.token);
        process.stderr.write(`Saved in ${file}\n`);
      }
      process.stderr.write(
        `Token of ${made.role} ${made.name}, valid until ${made.expires_at.toISOString()}, shown only now:\n`,
      );
      process.stdout.write(`${made.token}\n`);
    });

  withState(token.command('list'))
    .description('every token, without its secret')
    .option('--json', 'print JSON')
    .action(async (flags: StateFlags & { json?: boolean }) => {
      const tokens = await inDatabase(flags, listTokens);
      const lines = tokens.map((each) => [each.id, each.name, each.role, standing(each), ago(each.created_at)]);
      process.stdout.write(
        flags.json ? `${JSON.stringify(tokens)}\n` : `${table(['ID', 'NAME', 'ROLE', 'STANDING', 'MADE'], lines)}\n`,
      );
    });

  withState(token.command('revoke'))
    .description('refuse a token within a second')
    .argument('<id-or-name>', 'its id, or a name: then every valid token of that name')
    .addHelpText('after', '\nExample:\n  callboard operator token revoke vera --state /var/lib/callboard')
    .action(async (idOrName: string, flags: StateFlags) => {
      const revoked = await inDatabase(flags, async (db) => {
        const tokens = await revokeToken(db, idOrName);
        for (const each of tokens) await audit(db, 'operator token revoke', `${each.role} ${each.name} ${each.id}`);
        return tokens;
      });
      for (const each of revoked) process.stdout.write(`Revoked ${each.id} (${each.role} ${each.name})\n`);
    });

  return operator;
}

function withState(command: Command): Command {
  return command
    .requiredOption('--state <dir>', "the server's state directory")
    .addOption(
      new Option('--database-url <url>', "the server's database, where it is not the embedded one").env(
        'CALLBOARD_DATABASE_URL',
      ),
    );
}

async function inDatabase<Result>(flags: StateFlags, work: (db: Database) => Promise<Result>): Promise<Result> {
  const pool: pg.Pool = openPool(flags.databaseUrl ?? (await embeddedUrl(flags.state)), 1);
  try {
    return await work(openDatabase(pool));
  } catch (error) {
    if (error instanceof CallboardError) throw error;
    if (!isDatabaseAway(error)) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new CallboardError(
      'DATABASE_UNREACHABLE',
      { reason: message || code || 'unknown' },
      { cause: error, hint: `Is the server running? Start it with: callboard server --state ${flags.state}` },
    );
  } finally {
    await pool.end();
  }
}

async function embeddedUrl(state: string): Promise<string> {
  const file = join(state, 'database.json');
  try {
    return (JSON.parse(await readFile(file, 'utf8')) as { url: string }).url;
  } catch (error) {
    throw new CallboardError(
      'DATABASE_UNREACHABLE',
      { reason: `${file}: ${(error as Error).message}` },
      {
        cause: error,
        hint: `Is the server running? Start it with: callboard server --state ${state}, or give --database-url.`,
      },
    );
  }
}

/** The person at the machine is the operator: there is no token yet to name one. */
async function audit(db: Database, action: string, target: string): Promise<void> {
  await insertAudit(db, { operator: `local:${userInfo().username}`, action, target, address: 'local', status: 200 });
}

/** The CA's certificate is copied beside: the state directory is closed to other users. */
async function save(flags: { state: string; server: string }, token: string): Promise<string> {
  const directory = dirname(CONFIG_FILE);
  const caFile = join(directory, 'ca.pem');
  const ca = await openCa(flags.state, { create: false });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await replace(caFile, ca.certificatePem, 0o644);
  await replace(CONFIG_FILE, `${JSON.stringify({ server: flags.server, token, ca: caFile }, null, 2)}\n`, 0o600);
  return CONFIG_FILE;
}

async function replace(path: string, text: string, mode: number): Promise<void> {
  const beside = `${path}.${randomUUID()}`;
  await writeFile(beside, text, { mode, flag: 'wx' });
  await rename(beside, path);
}

function standing(token: Token): string {
  if (token.revoked_at) return `revoked ${ago(token.revoked_at)} ago`;
  if (token.expires_at.getTime() < Date.now()) return 'expired';
  return `until ${token.expires_at.toISOString().slice(0, 10)}`;
}

function positive(text: string): number {
  const days = Number(text);
  if (!(days > 0 && days <= 36_500)) throw new InvalidArgumentError('Give a number of days.');
  return days;
}
