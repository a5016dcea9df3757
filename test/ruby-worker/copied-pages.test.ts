/** Pages that a forked process wrote to are learnt, copied for the next one, and nothing that is told can harm whoever learns. */
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect, test } from 'vitest';

const LIBRARY = fileURLToPath(new URL('../../ruby/compile/copied_pages.rb', import.meta.url));
const PROGRAM = `
  require ARGV.first
  held = Array.new(200_000) { |i| "text #{i} that does not fit into an object" }
  learnt, heir = IO.pipe(binmode: true)
  copied = Callboard::CopiedPages.new([], heir)
  traps = 7.times.map do |n|
    copied = Callboard::CopiedPages.new(Callboard::CopiedPages.told(learnt)) if n == 6
    lesson, telling = copied.lesson
    told, tell = IO.pipe
    pid = fork do
      copied.copy(lesson: lesson)
      before = File.read('/proc/self/stat').split[9].to_i
      held.each { |text| text.setbyte(0, 65) }
      tell.write(File.read('/proc/self/stat').split[9].to_i - before)
      copied.tell(telling) if telling
      exit!(0)
    end
    [telling, tell].each { |io| io&.close }
    Process.wait(pid)
    copied.learn(lesson) if lesson
    told.read.to_i
  end
  puts traps.first > 1000, traps.last(2).all? { |count| count < traps.first / 4 }

  reader, writer = IO.pipe
  writer.write([2**64 - 1, 2**64 - 1, 5, 2**64 - 1, 7].pack('Q*'))
  copied.learn(reader)
  Process.wait(fork { copied.copy(lesson: nil); exit!(0) })
  puts $?.success?
`;

test('what was written to before is copied at once, by whoever inherits it too, whatever is told', async () => {
  const { stdout } = await execa('ruby', ['-e', PROGRAM, LIBRARY], { env: { LANG: 'C.UTF-8' } });
  expect(stdout.split('\n')).toEqual(['true', 'true', 'true']);
});
