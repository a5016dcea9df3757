# frozen_string_literal: true

# The parent of all interpreters. Holds Puppet, its own types and functions, and what was parsed so far; forks an
# interpreter for each code version when told to. PROTOCOL.md says how it is spoken to.

Encoding.default_external = Encoding::UTF_8
Encoding.default_internal = nil
$PROGRAM_NAME = 'callboard compile parent'

require 'json'
require_relative 'lines'
require_relative 'process_guard'

module Callboard
  # Obeys the control plane until it is gone.
  class Parent
    def initialize(order)
      @socket_path = order.fetch('socket')
      @order = order
      @interpreters = {}
      @warm = []
      @copied = [] # Pages that the compiles of the first interpreter wrote to: those of all others will write to them too.
      @learning = []
    end

    def run
      ProcessGuard.adopt_orphans
      load_puppet
      @lines = Lines.connect(@socket_path, @order.fetch('token'))
      @ended, signal = IO.pipe
      trap('CHLD') { signal.write_nonblock('.', exception: false) }
      @lines.send('event' => 'ready', 'pid' => Process.pid, 'puppet' => Puppet.version, 'ruby' => RUBY_VERSION)
      nil while turn
    ensure
      @interpreters.each_value { |pid| ProcessGuard.end_process(pid) }
    end

    private

    def load_puppet
      Dir.chdir('/')
      require_relative 'puppet_settings'
      require_relative 'interpreter'
      PuppetSettings.load(
        certname: @order.fetch('certname'), fileserver_config: @order['fileserver_config'],
        extra: @order['puppet_settings'] || {},
      )
      ParseCache.current = ParseCache.new
      YamlCache.current = YamlCache.new
      TemplateReads.current = TemplateReads.new
      require_relative 'loaded_features'
      LoadedFeatures.install
      require_relative 'preload'
      Preload.run
      Trace.install
      CodeVersion.core
      GC.start
      GC.compact if GC.respond_to?(:compact)
    end

    def turn
      ready, = IO.select([@lines.io, @ended, $stdin], nil, nil, @warm.empty? ? 5 : 0)
      (ready || []).each do |io|
        if io == @lines.io then return false unless obey
        elsif io == $stdin then return false if $stdin.read_nonblock(4096, exception: false).nil?
        else @ended.read_nonblock(4096, exception: false)
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
        when 'interpreter' then start(message)
        when 'kill' then ProcessGuard.end_process(@interpreters[message['interpreter']]) if @interpreters[message['interpreter']]
        when 'warm' then @warm << [message['code_directory'], message['files']]
        end
      end
      true
    end

    def start(message)
      learn
      parent = Process.pid
      reader, heir = IO.pipe(binmode: true) if @copied.empty?
      pid = fork do
        ProcessGuard.die_with(parent)
        trap('CHLD', 'DEFAULT')
        @lines.close
        @ended.close
        [*@learning, reader].each { |io| io&.close }
        @interpreters = {}
        $stdin.reopen(File::NULL)
        $PROGRAM_NAME = "callboard interpreter #{message['environment']} #{File.basename(message['code_directory'])[0, 12]}"
        Interpreter.new(message, @socket_path, CopiedPages.new(@copied, heir)).run
      rescue Exception => e # rubocop:disable Lint/RescueException
        warn "interpreter: #{e.class}: #{e.message}", *(e.backtrace || []).first(20)
        exit!(1)
      ensure
        exit!(0)
      end
      heir&.close
      @learning << reader if reader
      @interpreters[message['interpreter']] = pid
    end

    def learn
      @learning.reject! do |reader|
        told = CopiedPages.told(reader)
        @copied = told unless told.nil? || told.empty?
        reader.close unless told.nil?
        told
      end
    end

    def reap
      loop do
        pid, status = Process.wait2(-1, Process::WNOHANG)
        break if pid.nil?

        id = @interpreters.key(pid)
        next if id.nil? # An orphan of a compile.

        @interpreters.delete(id)
        @lines.send('event' => 'ended', 'interpreter' => id, 'exit' => status.exitstatus, 'signal' => status.termsig)
      end
    rescue Errno::ECHILD
      nil
    end

    # Parses ahead for the next code version, which mostly differs from this one in a few files.
    def warm_one
      directory, files = @warm.first
      file = files.shift
      return @warm.shift if file.nil?

      path = File.expand_path(file, directory)
      return unless path.start_with?("#{directory}/") && File.file?(path)

      ParseCache.current.root = directory
      Warming.warm(path)
    end
  end
end

order = JSON.parse($stdin.gets("\n", 65_536) || exit!(1))
begin
  Callboard::Parent.new(order).run
rescue Exception => e # rubocop:disable Lint/RescueException
  warn "parent: #{e.class}: #{e.message}", *(e.backtrace || []).first(20)
  exit!(1)
end
exit!(0)
