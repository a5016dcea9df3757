/** Appends to $LOADED_FEATURES by Ruby's own way: each is there, under threads and garbage collection, and `require` knows it. */
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect, test } from 'vitest';

const LIBRARY = fileURLToPath(new URL('../../ruby/compile/loaded_features.rb', import.meta.url));
const PROGRAM = `
  require ARGV.first
  Callboard::LoadedFeatures.install
  busy = 4.times.map { |k| Thread.new { 2000.times { |i| "#{k}#{i}" * 10; Thread.pass } } }
  files = (0...2000).map { |i| "/no/such/#{i}.rb" } + ["/no/such/\\u00e9.rb"]
  files.each { |file| $LOADED_FEATURES << file }
  busy.each(&:join)
  GC.start
  puts files.count { |file| $LOADED_FEATURES.include?(file) }, require("/no/such/7"), require("/no/such/1999.rb")
`;

test('what was appended stays as it was, and is not loaded again', async () => {
  const { stdout } = await execa('ruby', ['-e', PROGRAM, LIBRARY], { env: { LANG: 'C.UTF-8' } });
  expect(stdout.split('\n')).toEqual(['2001', 'false', 'false']);
});
