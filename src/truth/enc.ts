/**
 * The external node classifier, as `node_terminus=exec` runs it (`indirector/exec.rb`, `util/execution.rb`): the command is split
 * at whitespace, its program must be an absolute path, the certname comes last. An exit code other than 0 is an error, nothing
 * but whitespace means that the node is not known. What it prints is kept as printed; of it only `environment` is read here.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { ExecaError, execa } from 'execa';
import { parse } from 'yaml';
import { CallboardError } from '../model/errors.ts';
import { type Certname, type EnvironmentName, parseEnvironmentName } from '../model/ids.ts';
import { ENC_BYTES_MAX, ENC_TIME_MAX_MS } from '../model/limits.ts';

export interface EncAnswer {
  /** YAML, as printed. */
  answer: string;
  /** The environment it puts the node in, where it says so: then that one counts. */
  environment: EnvironmentName | undefined;
  /** SHA-256 of the answer. */
  hash: string;
}

/** Asks the classifier about a node. Throws ENC_FAILED in Puppet's words, or the signal's reason. */
export async function askEnc(command: string, certname: Certname, signal?: AbortSignal): Promise<EncAnswer> {
  const [program, ...args] = splitEncCommand(command);
  const failed = (detail: string, cause?: unknown) =>
    new CallboardError('ENC_FAILED', { reason: `Failed to find ${certname} via exec: ${detail}` }, { cause });
  let printed: Uint8Array;
  try {
    const ended = await execa(program!, [...args, certname], {
      env: encEnvironment(),
      extendEnv: false,
      stdin: 'ignore',
      encoding: 'buffer',
      stripFinalNewline: false,
      timeout: ENC_TIME_MAX_MS,
      maxBuffer: ENC_BYTES_MAX,
      killDescendants: true,
      forceKillAfterDelay: 1000,
      ...(signal ? { cancelSignal: signal } : {}),
    });
    printed = ended.stdout;
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (!(error instanceof ExecaError)) throw error;
    if (error.timedOut) throw failed(`${program} took longer than ${ENC_TIME_MAX_MS / 1000} seconds`, error);
    if (error.isMaxBuffer) throw failed(`${program} printed more than ${ENC_BYTES_MAX} bytes`, error);
    if (error.exitCode === undefined) throw failed(`Could not execute ${program}: ${error.originalMessage}`, error);
    const words = Buffer.from((error.stderr as unknown as Uint8Array | undefined) ?? [])
      .toString('utf8')
      .trim()
      .slice(-300);
    throw failed(`${program} returned ${error.exitCode}${words ? `: ${words}` : ''}`, error);
  }
  let answer: string;
  try {
    answer = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(printed);
  } catch (error) {
    throw failed(`${program} printed what is not UTF-8`, error);
  }
  if (answer.trim() === '') {
    throw new CallboardError('ENC_FAILED', { reason: `Could not find node '${certname}'; cannot compile` });
  }
  return {
    answer,
    environment: readEncEnvironment(answer, certname),
    hash: createHash('sha256').update(printed).digest('hex'),
  };
}

/** The environment in a classifier's answer. Its keys may be symbols, as Puppet allows. Throws ENC_FAILED. */
export function readEncEnvironment(answer: string, certname: string): EnvironmentName | undefined {
  const failed = (detail: string, cause?: unknown) =>
    new CallboardError(
      'ENC_FAILED',
      { reason: `Could not load external node results for ${certname}: ${detail}` },
      { cause },
    );
  let document: unknown;
  try {
    document = parse(answer, { version: '1.1', logLevel: 'silent', maxAliasCount: 1000 });
  } catch (error) {
    throw failed(error instanceof Error ? error.message.split('\n')[0]! : String(error), error);
  }
  if (typeof document !== 'object' || document === null || Array.isArray(document)) throw failed('it is not a hash');
  const { environment = (document as Record<string, unknown>)[':environment'] } = document as Record<string, unknown>;
  if (environment === undefined || environment === null) return undefined;
  if (typeof environment !== 'string') throw failed('its environment is not a string');
  return parseEnvironmentName(environment.replace(/^:/, ''));
}

/** Puppet's splitting: at whitespace, no quotes. */
export function splitEncCommand(command: string): string[] {
  return command.split(/[\s\0]+/).filter((part) => part !== '');
}

/** Throws ENC_COMMAND_INVALID for what can never work. */
export async function checkEncCommand(command: string): Promise<void> {
  const refuse = (reason: string) => new CallboardError('ENC_COMMAND_INVALID', { value: command, reason });
  const [program] = splitEncCommand(command);
  if (program === undefined) throw refuse('it is empty');
  if (/[\x00-\x08\x0b-\x1f\x7f]/.test(command)) throw refuse('it holds control characters');
  if (!isAbsolute(program)) throw refuse('its program is not an absolute path');
  const about = await stat(program).catch(() => undefined);
  if (!about?.isFile()) throw refuse(`there is no file '${program}' on this server`);
  await access(program, constants.X_OK).catch(() => {
    throw refuse(`'${program}' is not executable`);
  });
}

/** As Puppet gives it: no locale, nobody's home. */
function encEnvironment(): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value === undefined || /^(LC_\w+|LANGUAGE|HOME|USER|LOGNAME)$/.test(name)) continue;
    environment[name] = value;
  }
  return { ...environment, LANG: 'C' };
}
