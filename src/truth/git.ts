/**
 * Running git: the real one, never through a shell, never asking anybody anything, in an environment of our own making, so
 * that what the server was started with (GIT_DIR, a pager, a prompt) changes nothing.
 */
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { PassThrough, type Readable } from 'node:stream';
import { ExecaError, execa } from 'execa';
import { GIT_OUTPUT_BYTES_MAX } from '../model/limits.ts';

/** Variables of git's that say how to reach a server; all others are dropped. */
const GIT_VARIABLES_KEPT = /^GIT_(SSH|SSH_COMMAND|SSH_VARIANT|SSL_\w+|PROXY_\w+|HTTP_\w+|TRACE\w*)$/;

/** git ended with an error; `message` is its last words. */
export class GitError extends Error {
  readonly stderr: string;
  constructor(message: string, stderr: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'GitError';
    this.stderr = stderr;
  }
}

export interface GitOptions {
  signal: AbortSignal;
  /** Path of a configuration file that stands in for the user's (see `writeGitConfig`). */
  config: string;
  stdin?: string;
  /** Told each line that git writes to stderr. */
  onLine?: (line: string) => void;
}

/** The environment for git and for what runs git in its turn. */
export function gitEnvironment(config: string): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value === undefined) continue;
    if (name.startsWith('GIT_') && !GIT_VARIABLES_KEPT.test(name)) continue;
    if (name === 'SSH_ASKPASS' || name === 'DISPLAY') continue;
    environment[name] = value;
  }
  return {
    ...environment,
    LC_ALL: 'C.UTF-8',
    GIT_CONFIG_GLOBAL: config,
    GIT_TERMINAL_PROMPT: '0',
    GIT_ASKPASS: '/bin/false',
    GIT_ALLOW_PROTOCOL: 'file:git:http:https:ssh',
    // A repository on this machine may belong to somebody else; nothing it configures may run on our behalf.
    GIT_NO_LAZY_FETCH: '1',
    GIT_SSH_COMMAND: environment.GIT_SSH_COMMAND ?? 'ssh -oBatchMode=yes',
  };
}

/**
 * Writes a git configuration that takes in the user's own and trusts `repositories`, whoever owns them: the operator named
 * them. `mirrored` are fetched from their mirrors. A file, since git's helper processes do not inherit what is given by `-c`.
 */
export async function writeGitConfig(
  file: string,
  repositories: readonly string[],
  mirrored: readonly { repo: string; directory: string }[] = [],
): Promise<void> {
  const quoted = (value: string) => `"${value.replace(/["\\]/g, '\\$&')}"`;
  const user = process.env.GIT_CONFIG_GLOBAL ?? join(homedir(), '.gitconfig');
  const lines = ['[include]', `\tpath = ${quoted(user)}`, '[safe]'];
  for (const path of repositories) lines.push(`\tdirectory = ${quoted(path)}`);
  for (const { repo, directory } of mirrored) lines.push(`[url ${quoted(directory)}]`, `\tinsteadOf = ${quoted(repo)}`);
  await mkdir(dirname(file), { recursive: true });
  const beside = `${file}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  await writeFile(beside, `${lines.join('\n')}\n`, { mode: 0o600 });
  await rename(beside, file);
}

function start(args: string[], options: GitOptions, buffer: boolean) {
  return execa('git', args, {
    env: gitEnvironment(options.config),
    extendEnv: false,
    cwd: '/',
    encoding: 'buffer',
    stripFinalNewline: false,
    maxBuffer: GIT_OUTPUT_BYTES_MAX,
    buffer: { stdout: buffer, stderr: true },
    cancelSignal: options.signal,
    killDescendants: true,
    ...(options.stdin === undefined ? { stdin: 'ignore' as const } : { input: options.stdin }),
  });
}

/** Runs git to its end; its stdout. Throws GitError, or the signal's reason. */
export async function git(args: string[], options: GitOptions): Promise<Buffer> {
  const child = start(args, options, true);
  if (options.onLine) tellLines(child.stderr, options.onLine);
  try {
    return Buffer.from((await child).stdout as Uint8Array);
  } catch (error) {
    throw gitError(error, options.signal);
  }
}

/** Runs git with its stdout as a stream; `ended` settles when it ends, and throws as `git` does. */
export function gitStream(args: string[], options: GitOptions): { stdout: Readable; ended: Promise<void> } {
  const child = start(args, options, false);
  // A stream that nobody reads yet when the process ends is emptied by execa; this one waits for its reader.
  const stdout = new PassThrough();
  child.stdout.on('error', (error) => stdout.destroy(error)).pipe(stdout);
  const ended = child.then(
    () => {},
    (error) => {
      throw gitError(error, options.signal);
    },
  );
  ended.catch(() => {});
  return { stdout, ended };
}

function gitError(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (!(error instanceof ExecaError)) return error;
  const stderr = Buffer.from((error.stderr as unknown as Uint8Array | undefined) ?? []).toString('utf8');
  const words = stderr
    .trim()
    .split('\n')
    .filter((line) => /^(fatal|error|remote|ssh):/i.test(line.trim()))
    .slice(-3)
    .join(' ');
  return new GitError(words || stderr.trim().slice(-500) || error.shortMessage, stderr, { cause: error });
}

function tellLines(stream: NodeJS.ReadableStream, tell: (line: string) => void): void {
  let rest = '';
  stream.on('data', (bytes: Buffer) => {
    const lines = (rest + bytes.toString('utf8')).split(/\r\n|\n|\r/);
    rest = (lines.pop() ?? '').slice(-2000);
    for (const line of lines) if (line !== '') tell(line);
  });
  stream.on('end', () => {
    if (rest !== '') tell(rest);
  });
}
