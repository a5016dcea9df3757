/** The classifier, with real programs, and against Puppet's own words. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test, vi } from 'vitest';
import { parseCertname } from '../../src/model/ids.ts';
import { ENC_BYTES_MAX } from '../../src/model/limits.ts';
import { askEnc, checkEncCommand, readEncEnvironment, splitEncCommand } from '../../src/truth/enc.ts';
import { temporaryDirectory } from './git-fixture.ts';

vi.setConfig({ testTimeout: 60_000 });

let directory: string;
beforeAll(() => {
  directory = temporaryDirectory('enc', 'file');
});

function program(name: string, script: string): string {
  const path = join(directory, name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}
const certname = parseCertname('web01.example.org');

test('the command is split at whitespace and the certname comes last; what it prints is kept as printed', async () => {
  const path = program('args', 'printf -- "---\\nclasses: []\\nparameters:\\n  args: \'%s\'\\n" "$*"');
  const { answer, environment, hash } = await askEnc(`${path}   --flag\t"quoted`, certname);
  expect(answer).toBe("---\nclasses: []\nparameters:\n  args: '--flag \"quoted web01.example.org'\n");
  expect(environment).toBeUndefined();
  expect(hash).toMatch(/^[0-9a-f]{64}$/);
  expect(await askEnc(`${path} --flag "quoted`, certname)).toMatchObject({ hash });
});

test('the program runs as Puppet runs it: no locale, nobody home, nothing to read, an absolute path', async () => {
  const path = program('env', `printf "parameters: {lang: '$LANG', home: '\${HOME-none}', stdin: '$(cat)'}\\n"`);
  expect((await askEnc(path, certname)).answer).toBe("parameters: {lang: 'C', home: 'none', stdin: ''}\n");
  await expect(checkEncCommand('true')).rejects.toMatchObject({ code: 'ENC_COMMAND_INVALID' });
});

test('an environment in the answer counts', async () => {
  const path = program('environment', 'echo "environment: staging"; echo "classes: {role: }"');
  expect((await askEnc(path, certname)).environment).toBe('staging');
});

test.each([
  ['environment: staging', 'staging'],
  [':environment: staging', 'staging'],
  [':environment: :staging', 'staging'],
  ['environment: "staging"', 'staging'],
  ['classes:\n  - a', undefined],
  ['environment:', undefined],
])('%j puts a node into %s', (answer, environment) => {
  expect(readEncEnvironment(answer, 'web01')).toBe(environment);
});

test.each([
  ['- a', /it is not a hash/],
  ['just text', /it is not a hash/],
  ['environment: [a]', /its environment is not a string/],
  ['environment: {', /Could not load external node results for web01/],
  [
    'a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d]',
    /Could not load/,
  ],
  ['environment: Not/Valid', /environment name/],
])('%j is refused', (answer, words) => {
  expect(() => readEncEnvironment(answer, 'web01')).toThrowError(words);
});

test.each([
  ['fails', 'echo broken >&2; exit 3', /^Failed to find web01\.example\.org via exec: .*fails returned 3: broken$/],
  ['silent', 'echo; echo "  "', /^Could not find node 'web01\.example\.org'; cannot compile$/],
  ['binary', "printf '\\377\\376'", /not UTF-8/],
  ['chatty', `head -c ${ENC_BYTES_MAX + 1} /dev/zero | tr '\\0' x`, /printed more than 1048576 bytes/],
])('a program that %s', async (name, script, words) => {
  const failure = await askEnc(program(name, script), certname).catch((error) => error);
  expect(failure).toMatchObject({ code: 'ENC_FAILED' });
  expect(failure.message).toMatch(words);
});

test('a program that is not there, or is none', async () => {
  await expect(askEnc(join(directory, 'nowhere'), certname)).rejects.toMatchObject({ code: 'ENC_FAILED' });
  const text = join(directory, 'text');
  writeFileSync(text, 'x');
  await expect(askEnc(text, certname)).rejects.toMatchObject({ code: 'ENC_FAILED' });
});

test('a program that hangs is ended with what it started, in time or when the asker goes', async () => {
  const path = program('hangs', `sleep 300 & echo $! > ${directory}/child; wait`);
  const asker = new AbortController();
  const asked = askEnc(path, certname, asker.signal);
  asked.catch(() => {});
  const child = await vi.waitFor(() => {
    const pid = Number(readFileSync(join(directory, 'child'), 'utf8'));
    if (!pid) throw new Error('not yet');
    return pid;
  }, 10_000);
  asker.abort(new Error('gone'));
  await expect(asked).rejects.toThrow('gone');
  await vi.waitFor(() => expect(() => process.kill(child, 0)).toThrow(), 10_000);
});

test.each([
  ['', 'it is empty'],
  ['enc.sh', 'not an absolute path'],
  ['/nonexistent/enc', 'there is no file'],
  ['/tmp', 'there is no file'],
  ['/etc/passwd', 'is not executable'],
  ['/bin/true\x01', 'control characters'],
])('%j cannot be an ENC command: %s', async (command, words) => {
  await expect(checkEncCommand(command)).rejects.toThrowError(
    expect.objectContaining({ code: 'ENC_COMMAND_INVALID', message: expect.stringContaining(words) }),
  );
});

test('a command with arguments can', async () => {
  mkdirSync(join(directory, 'sub'), { recursive: true });
  await checkEncCommand(`${program('fine', 'true')} --config /etc/enc.yaml`);
  expect(splitEncCommand(' /a/b  c\td\n')).toEqual(['/a/b', 'c', 'd']);
});
