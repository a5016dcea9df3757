# frozen_string_literal: true

require 'etc'
require 'fiddle'

module Callboard
  # A forked process shares its memory with the one that it came from until it writes to it; then the kernel copies it page by
  # page, with a trap for each, which is much of what a small compile costs. Compiles write to much the same pages, so those that
  # the first ones wrote to are copied for the next ones all at once. It is a matter of speed alone: where the kernel cannot
  # do this (Linux before 5.14), nothing happens.
  class CopiedPages
    PAGE = Etc.sysconf(Etc::SC_PAGESIZE)
    # Bits of /proc/PID/pagemap: the page is there, and no other process has it (Documentation/admin-guide/mm/pagemap.rst).
    OWN = (1 << 63) | (1 << 56)
    # madvise(2): MADV_POPULATE_WRITE.
    POPULATE_WRITE = 23
    # Compiles that are learnt from: after the first fork, and after something was parsed ahead.
    LESSONS = 5
    LESSONS_MORE = 2
    # 256 MiB, where pages have 4 KiB.
    PAGES_MAX = 65_536
    # No process has memory beyond: what is told of it is not believed.
    FIRST_MAX = (1 << 47) / PAGE
    # Pages between two that are copied, which are copied with them.
    GAP = 4
    MADVISE = begin
      Fiddle::Function.new(
        Fiddle::Handle::DEFAULT['madvise'], [Fiddle::TYPE_VOIDP, Fiddle::TYPE_SIZE_T, Fiddle::TYPE_INT], Fiddle::TYPE_INT,
      )
    rescue Fiddle::DLError
      nil
    end

    # Runs that were told through a pipe, as far as they can be true; nil where nothing was yet.
    def self.told(reader)
      words = reader.read_nonblock(65_536, exception: false)
      return if words == :wait_readable

      left = PAGES_MAX
      words.to_s.unpack('Q*').each_slice(2).filter_map do |first, count|
        count = [count.to_i, left].min
        left -= count
        [first, count] if first <= FIRST_MAX && count.positive?
      end
    end

    # `runs`: what compiles of another process with the same parent wrote to. `heir`: where to write what is learnt here.
    def initialize(runs = [], heir = nil)
      @pages = Hash.new(0) # How many compiles wrote to each.
      @runs = runs
      @heir = heir
      @lessons = MADVISE ? LESSONS : 0
      runs.each { |first, count| count.times { |index| @pages[first + index] = 2 } }
    end

    # Another compile may write to other pages from now on.
    def moved
      @lessons = [@lessons, LESSONS_MORE].max if MADVISE
    end

    # A pipe for what the next process has to say, or nil.
    def lesson
      return if @lessons.zero?

      @lessons -= 1
      IO.pipe(binmode: true)
    end

    # In the forked process, before anything else. `lesson`: it will tell.
    def copy(lesson:)
      @heir&.close
      @runs.each { |first, count| MADVISE.call(first * PAGE, count * PAGE, POPULATE_WRITE) }
      @mappings = lesson ? mappings : []
    rescue SystemCallError
      @mappings = []
    end

    # In the forked process, in the end: which pages it wrote to. What does not fit into the pipe is not told.
    def tell(writer)
      File.open('/proc/self/pagemap', 'rb') do |file|
        own = @mappings.flat_map do |first, count|
          flags = file.pread(count * 8, first * 8).unpack('Q*')
          flags.each_index.select { |index| flags[index] & OWN == OWN }.map { |index| first + index }
        end
        writer.write_nonblock(runs(own).flatten.pack('Q*'))
      end
    rescue SystemCallError, EOFError
      nil
    end

    # In the process that forks: what one told.
    def learn(reader)
      told = CopiedPages.told(reader) || []
      told.each do |first, count|
        count.clamp(0, PAGES_MAX - @pages.size).times { |index| @pages[first + index] += 1 }
      end
      # What one compile alone wrote to says little.
      @runs = runs(@pages.select { |_, times| times > 1 }.keys.sort)
      pass_on if @heir && @lessons.zero?
    ensure
      reader.close
    end

    private

    def pass_on
      @heir.write_nonblock(@runs.flatten.pack('Q*'), exception: false)
      @heir.close
      @heir = nil
    end

    # [first page, pages] of all memory that a write would copy.
    def mappings
      File.foreach('/proc/self/maps').filter_map do |line|
        range, mode, _, _, inode, = line.split
        next unless mode == 'rw-p' && inode == '0'

        first, last = range.split('-').map { |address| address.to_i(16) / PAGE }
        [first, last - first]
      end
    end

    # Ascending pages as [first, count].
    def runs(pages)
      pages.slice_when { |page, following| following - page > GAP }.map { |run| [run.first, run.last - run.first + 1] }
    end
  end
end
