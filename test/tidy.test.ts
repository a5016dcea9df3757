/** House rules as a test: who may import whom, what no file is called, what no line says, and no file that nobody uses. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SRC = join(ROOT, 'src');

/** The flow's rooms. They never import one another: app.ts hands them what they need. */
const ROOMS = ['facts', 'truth', 'compile', 'catalog', 'content', 'release', 'report'];
const MAY_IMPORT: Record<string, string[]> = {
  model: [],
  config: ['model'],
  postgres: ['config', 'model'],
  http: ['postgres', 'config', 'model'],
  ...Object.fromEntries(ROOMS.map((room) => [room, ['http', 'postgres', 'config', 'model']])),
  run: ['config', 'model'],
  cli: ['config', 'model'],
  'app.ts': [...ROOMS, 'http', 'postgres', 'config', 'model'],
};
/** Commands that are a process of their own, or work on the server's state directory, reach further than the API. */
const COMMAND_MAY_IMPORT: Record<string, string[]> = {
  'cli/server.ts': ['app.ts'],
  'cli/node.ts': ['run'],
  'cli/cert.ts': ['http'],
  'cli/operator.ts': ['http', 'postgres'],
};

const sources = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .sort();

function room(name: string): string {
  return name.includes('/') ? name.slice(0, name.indexOf('/')) : name;
}

/** Each import of our own files in a text: paths relative to the root of the repository. */
function imports(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g), ...text.matchAll(/new URL\('(\.[^']+\.ts)'/g)].map(
    (match) => relative(ROOT, join(dirname(file), match[1]!)),
  );
}

test('imports go the way the layout says', () => {
  const wrong: string[] = [];
  for (const name of sources) {
    const from = room(name);
    const allowed = [...(MAY_IMPORT[from] ?? []), ...(COMMAND_MAY_IMPORT[name] ?? [])];
    for (const target of imports(join(SRC, name))) {
      const to = room(relative('src', target));
      if (to !== from && !allowed.includes(to)) wrong.push(`${name} imports ${target}`);
    }
  }
  expect(sources.length).toBeGreaterThan(20);
  expect(wrong).toEqual([]);
});

test('the nouns do no input or output', () => {
  const wrong = sources.filter(
    (name) =>
      room(name) === 'model' &&
      /from 'node:(fs|net|http|https|child_process|tls)/.test(readFileSync(join(SRC, name), 'utf8')),
  );
  expect(wrong).toEqual([]);
});

test('no file is called a drawer', () => {
  const drawers = /(^|[/-])(utils?|helpers?|common|manager|misc)([-.]|$)/;
  expect(sources.filter((name) => drawers.test(name))).toEqual([]);
});

test('nothing is left open', () => {
  const marks = /\b(TODO|FIXME|XXX)\b|\.(only|skip)\(/;
  const tests = readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && name !== 'tidy.test.ts')
    .map((name) => join(ROOT, 'test', name));
  const open = [...sources.map((name) => join(SRC, name)), ...tests].filter((file) =>
    marks.test(readFileSync(file, 'utf8')),
  );
  expect(open.map((file) => relative(ROOT, file))).toEqual([]);
});

test('no source file is dead', () => {
  const used = new Set<string>();
  const visit = (file: string): void => {
    if (used.has(file)) return;
    used.add(file);
    for (const target of imports(join(ROOT, file))) visit(target);
  };
  for (const entry of readdirSync(join(ROOT, 'bin'))) visit(`bin/${entry}`);
  for (const tool of readdirSync(join(ROOT, 'tools')).filter((name) => name.endsWith('.ts'))) visit(`tools/${tool}`);
  expect(sources.map((name) => `src/${name}`).filter((file) => !used.has(file))).toEqual([]);
});

test('every room says what it promises', () => {
  for (const name of [...ROOMS, 'run', 'postgres', 'http', 'config', 'model', 'cli']) {
    expect(readFileSync(join(SRC, name, 'README.md'), 'utf8').length, `src/${name}/README.md`).toBeGreaterThan(200);
  }
});
