/**
 * What every compile of this process starts from beside code and node: Puppet, Ruby, our own Ruby code, settings, server facts.
 * Its digest stands with each compile; one of another base proves nothing, so an upgrade compiles everything once.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const RUBY = fileURLToPath(new URL('../../ruby/compile/', import.meta.url));

export interface BaseParts {
  puppetVersion: string;
  rubyVersion: string;
  certname: string;
  puppetSettings: Record<string, string>;
  /** The text of fileserver.conf; empty where there is none. */
  fileserverConfig: string;
  serverFacts: Record<string, string>;
}

export async function baseDigest(about: BaseParts): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(about));
  for (const name of (await readdir(RUBY, { recursive: true })).filter((name) => name.endsWith('.rb')).sort())
    hash.update(`${name}\n`).update(await readFile(`${RUBY}${name}`));
  return hash.digest('hex');
}
