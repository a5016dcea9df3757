/**
 * The root keys of data files, with a digest of each value: read by a Ruby of its own, as Hiera would (ruby/compile/data_keys.rb),
 * once for each content and then remembered. A file that cannot be looked at in time counts as a whole.
 */
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import type { ContentHash } from '../model/ids.ts';
import type { DataKeys } from '../model/inputs.ts';
import { DATA_FILE_BYTES_MAX, DATA_KEYS_TIME_MAX_MS } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import { knownDataKeys, storeDataKeys } from './read-set-store.ts';
import { RUBY_ENVIRONMENT } from './ruby-environment.ts';

const PROGRAM = fileURLToPath(new URL('../../ruby/compile/data_keys.rb', import.meta.url));

export interface DataFile {
  hash: ContentHash;
  kind: 'yaml' | 'json';
}

export function dataKind(path: string): DataFile['kind'] {
  return path.endsWith('.json') ? 'json' : 'yaml';
}

/** By `kind hash`. */
export async function dataKeys(
  deps: { db: Database; ruby: string; content: { read(hash: ContentHash): Promise<Buffer> } },
  files: DataFile[],
  signal: AbortSignal,
): Promise<Map<string, DataKeys>> {
  const name = (file: { hash: string; kind: string }): string => `${file.kind} ${file.hash}`;
  const wanted = new Map(files.map((file) => [name(file), file]));
  const found = new Map<string, DataKeys>();
  for (const known of await knownDataKeys(deps.db, [...wanted.values()])) found.set(name(known), known.keys);
  const unknown = [...wanted].filter(([key]) => !found.has(key)).map(([, file]) => file);
  if (unknown.length === 0) return found;

  const looked = await look(deps, unknown, signal);
  for (const { keys, ...file } of looked) found.set(name(file), keys);
  await storeDataKeys(deps.db, looked);
  for (const file of unknown) if (!found.has(name(file))) found.set(name(file), null);
  return found;
}

async function look(
  deps: { ruby: string; content: { read(hash: ContentHash): Promise<Buffer> } },
  files: DataFile[],
  signal: AbortSignal,
): Promise<(DataFile & { keys: DataKeys })[]> {
  const small: { file: DataFile; text: string }[] = [];
  for (const file of files) {
    const bytes = await deps.content.read(file.hash);
    if (bytes.length <= DATA_FILE_BYTES_MAX) small.push({ file, text: bytes.toString('base64') });
  }
  const { stdout, failed } = await execa(deps.ruby, ['--disable-gems', PROGRAM], {
    input: small.map(({ file, text }) => `${JSON.stringify({ kind: file.kind, base64: text })}\n`).join(''),
    timeout: DATA_KEYS_TIME_MAX_MS,
    cancelSignal: signal,
    forceKillAfterDelay: 500,
    reject: false,
    extendEnv: false,
    env: RUBY_ENVIRONMENT,
  });
  // Answers come in the order of the questions; those before a failure count.
  const answers = stdout.split('\n').filter((line) => line !== '');
  if (failed && answers.length > 0) answers.pop();
  return answers
    .slice(0, small.length)
    .map((line, at) => ({ ...small[at]!.file, keys: JSON.parse(line).keys as DataKeys }));
}
