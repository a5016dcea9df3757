# frozen_string_literal: true

require_relative 'code_version'
require_relative 'compile'
require_relative 'copied_pages'
require_relative 'lines'
require_relative 'loads'
require_relative 'parse_cache'
require_relative 'process_guard'
require_relative 'template_reads'
require_relative 'yaml_cache'

module Callboard
  # The interpreter of one code version in one environment. It forks a process for every compile, sees to its output and
  # its end, and in its idle moments parses what those processes had to parse, so that the next ones need not. Code of modules
  # is loaded here only where the order names it, and never evaluated: a compile can change nothing that another would see.
  class Interpreter
    OUTPUT_BYTES_KEPT = 8 * 1024
    # Beyond this the process does nothing but print.
    OUTPUT_BYTES_MAX = 32 * 1024 * 1024

    Child = Struct.new(:id, :pid, :output, :printed, :kept, :flooded, :lesson, keyword_init: true)

    def initialize(order, socket_path, copied)
      @socket_path = socket_path
      @order = order
      @children = {}
      @warm = []
      @copied = copied
    end

    def run
      @lines = Lines.connect(@socket_path, @order.fetch('token'))
      return unless prepare

      watch_children
      @lines.send('event' => 'ready', 'pid' => Process.pid)
      nil while turn
    ensure
      @children.each_value { |child| ProcessGuard.end_group(child.pid) }
    end

    private

    # False where this is no code version at all. What is wrong with its code is for the compiles to say.
    def prepare
      @code_version = CodeVersion.new(@order.fetch('environment'), @order.fetch('code_directory'))
      ParseCache.current.root = @code_version.directory
      begin
        @code_version.prepare
      rescue StandardError
        @code_version = CodeVersion.new(@order.fetch('environment'), @order.fetch('code_directory'))
      end
      load_ahead if @order['loads']
      true
    rescue StandardError => e
      @lines.send('event' => 'failed', 'reason' => e.message)
      false
    end

    def load_ahead
      @reads = @code_version.listened { Loads.new(@code_version, @order['loads']).run }
      GC.start
    end

    def watch_children
      @ended, signal = IO.pipe
      trap('CHLD') { signal.write_nonblock('.', exception: false) }
    end

    # One round of work; false when the control plane is gone.
    def turn
      readers = [@lines.io, @ended, *@children.values.filter_map(&:output)]
      ready, = IO.select(readers, nil, nil, @warm.empty? ? 5 : 0)
      (ready || []).each do |io|
        if io == @lines.io then return false unless obey
        elsif io == @ended then @ended.read_nonblock(4096, exception: false)
        else read_output(@children.values.find { |child| child.output == io })
        end
      end
      reap
      warm_one if ready.nil? && @warm.any?
      true
    end

    def obey
      messages = @lines.arrived
      return false if messages.nil?

      messages.each do |message|
        case message['do']
        when 'compile' then start(message)
        when 'kill' then kill(message['compile'])
        when 'warm' then @warm.concat(message['files'])
        end
      end
      true
    end

    def start(message)
      output, printing = IO.pipe
      lesson, telling = @copied.lesson
      interpreter = Process.pid
      pid = fork do
        @copied.copy(lesson: lesson)
        output.close
        lesson&.close
        become_compile(interpreter, printing)
        compile(message, telling)
        exit!(0)
      rescue Exception => e # rubocop:disable Lint/RescueException
        warn "compile: #{e.class}: #{e.message}", *(e.backtrace || []).first(20)
        exit!(1)
      ensure
        exit!(1)
      end
      printing.close
      telling&.close
      @children[pid] = Child.new(id: message['compile'], pid: pid, output: output, printed: 0, kept: +'', lesson: lesson)
      @lines.send('event' => 'started', 'compile' => message['compile'], 'pid' => pid)
    end

    # Leaves everything behind that belongs to the interpreter.
    def become_compile(interpreter, printing)
      Process.setpgid(0, 0)
      ProcessGuard.die_with(interpreter)
      ProcessGuard.spare_others
      trap('CHLD', 'DEFAULT')
      @lines.close
      @ended.close
      @children.each_value { |child| [child.output, child.lesson].each { |io| io&.close } }
      @children = {}
      $stdin.reopen(File::NULL)
      $stdout.reopen(printing)
      $stderr.reopen(printing)
      printing.close
      $stdout.sync = true
    end

    def compile(message, telling)
      lines = Lines.connect(@socket_path, message.fetch('token'))
      request = lines.receive(message.fetch('request_bytes_max'))
      return if request.nil?

      end_with(lines)
      header, catalog = Compile.new(@code_version, @reads).run(request)
      @copied.tell(telling) if telling
      header['cpu_ms'] = Process.times.then { |t| ((t.utime + t.stime + t.cutime + t.cstime) * 1000).round }
      header['parsed'] = (ParseCache.current.missed + YamlCache.current.missed + TemplateReads.current.missed)
                         .map { |path| @code_version.relative(path) }.reject { |path| path.start_with?('/') }.uniq
      lines.send(header)
      lines.write("#{catalog}\n") if catalog
    end

    # The control plane hung up: nobody waits for this catalog any more.
    def end_with(lines)
      Thread.new do
        begin
          lines.io.read(1)
        rescue IOError, SystemCallError
          nil
        end
        ProcessGuard.end_group(Process.pid)
        exit!(1)
      end
    end

    def kill(id)
      child = @children.values.find { |candidate| candidate.id == id }
      ProcessGuard.end_group(child.pid) if child
    end

    def read_output(child)
      return if child.nil?

      chunk = child.output.read_nonblock(65_536, exception: false)
      return if chunk == :wait_readable
      return close_output(child) if chunk.nil?

      child.printed += chunk.bytesize
      child.kept << chunk.byteslice(0, OUTPUT_BYTES_KEPT - child.kept.bytesize) if child.kept.bytesize < OUTPUT_BYTES_KEPT
      return if child.printed <= OUTPUT_BYTES_MAX || child.flooded

      child.flooded = true
      ProcessGuard.end_group(child.pid)
    end

    def close_output(child)
      child.output.close
      child.output = nil
    end

    def reap
      loop do
        pid, status = Process.wait2(-1, Process::WNOHANG)
        break if pid.nil?

        child = @children.delete(pid)
        next if child.nil?

        ProcessGuard.end_group(pid) # What it started and left behind.
        @copied.learn(child.lesson) if child.lesson
        read_rest(child)
        @lines.send(
          'event' => 'ended', 'compile' => child.id, 'exit' => status.exitstatus, 'signal' => status.termsig,
          'flooded' => child.flooded == true, 'printed' => child.printed,
          'output' => child.kept.force_encoding(Encoding::UTF_8).scrub('?'),
        )
      end
    rescue Errno::ECHILD
      nil
    end

    def read_rest(child)
      return if child.output.nil?

      chunk = child.output.read_nonblock(65_536, exception: false)
      child.kept << chunk.byteslice(0, [OUTPUT_BYTES_KEPT - child.kept.bytesize, 0].max) if chunk.is_a?(String)
      child.output.close
    end

    def warm_one
      path = File.expand_path(@warm.shift.to_s, @code_version.directory)
      return unless path.start_with?("#{@code_version.directory}/") && File.file?(path)

      Warming.warm(path)
      @copied.moved
    end
  end

  # Parses a file into the cache that its kind belongs to.
  module Warming
    BYTES_MAX = 4 * 1024 * 1024

    module_function

    def warm(path)
      return if File.size(path) > BYTES_MAX

      case path
      when ParseCache::PARSED then ParseCache.current.warm(path)
      when /\.ya?ml\z/ then YamlCache.current.warm(path)
      when /\.erb\z/ then TemplateReads.current.warm(path)
      end
    end
  end
end
