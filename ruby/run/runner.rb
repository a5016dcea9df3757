# The warm runner. It loads Puppet once, holds no node's state, loads no module's code, and forks a child for each run and
# each collection of facts; the child does the work and is gone. It speaks NDJSON with the node daemon (PROTOCOL.md).
#
# What it promises: a child's death is always told, with how it died; whatever Puppet, modules or their children print never
# reaches the protocol; when the daemon dies the runner ends at once, and a run that is under way ends after the resource
# that it is working on.

require 'json'

# The protocol's ends are taken away before anything of Puppet is loaded. From here on, stdin is empty and stdout is the log.
COMMANDS = STDIN.dup
MESSAGES = STDOUT.dup
[COMMANDS, MESSAGES].each { |io| io.close_on_exec = true }
MESSAGES.sync = true
STDIN.reopen(File::NULL)
STDOUT.reopen(STDERR)
STDOUT.sync = true
ENV.delete('RUBYOPT')
ENV.delete('NODE_OPTIONS')

require_relative 'lib/preload'
require_relative 'lib/puppet_settings'
require_relative 'lib/event_file'
require_relative 'lib/run_job'
require_relative 'lib/facts_job'

module Runner
  PROTOCOL = 1
  # One command; the longest holds some paths and ids.
  COMMAND_BYTES_MAX = 64 * 1024
  READ_BYTES = 64 * 1024

  Child = Struct.new(:id, :pid, :messages, :lifeline, :buffer)

  class << self
    def run
      @children = {}
      @reaper, reap = IO.pipe
      trap('CHLD') { reap.write_nonblock('.', exception: false) }
      # The daemon decides when to end. A signal to the whole process group (Ctrl-C in a terminal) is the daemon's to handle.
      %w[INT TERM HUP].each { |name| trap(name, 'IGNORE') }
      GC.start
      GC.compact if GC.respond_to?(:compact)
      say(ready: { protocol: PROTOCOL, puppet: Puppet.version, facter: Facter.version, ruby: RUBY_VERSION, pid: Process.pid,
                   files: Preload.stamped })
      serve
    end

    private

    def serve
      input = +''
      loop do
        readable, = IO.select([COMMANDS, @reaper, *@children.values.filter_map(&:messages)])
        readable.each do |io|
          if io == COMMANDS
            chunk = COMMANDS.read_nonblock(READ_BYTES, exception: false)
            next if chunk == :wait_readable
            return if chunk.nil? # The daemon is gone; closing the lifelines, which our end does, tells the children.

            input << chunk
            abort 'a command is too long' if input.bytesize > COMMAND_BYTES_MAX * 4
            while (line = input.slice!(/\A[^\n]*\n/))
              command(JSON.parse(line))
            end
          elsif io == @reaper
            @reaper.read_nonblock(READ_BYTES, exception: false)
            reap
          else
            child = @children.values.find { |one| one.messages == io }
            forward(child) if child
          end
        end
      end
    end

    def command(command)
      case command['do']
      when 'run' then start(command) { RunJob.new(command) }
      when 'facts' then start(command) { FactsJob.new(command) }
      when 'stop' then signal(command, 'TERM')
      when 'kill' then signal(command, 'KILL')
      else abort "unknown command #{command['do'].inspect}"
      end
    end

    # Stop goes to the child alone, which asks Puppet to stop; kill to all that it started and that stayed in its group.
    def signal(command, name)
      child = @children[command['id']] or return
      Process.kill(name, name == 'KILL' ? -child.pid : child.pid)
    rescue Errno::ESRCH
      # It ended by itself meanwhile; the reaper says so.
    end

    def start(command)
      from_child, to_parent = IO.pipe
      lifeline, held = IO.pipe
      pid = fork do
        %w[CHLD INT HUP].each { |name| trap(name, 'DEFAULT') }
        [COMMANDS, MESSAGES, @reaper, from_child, held].each(&:close)
        @children.each_value { |other| [other.messages, other.lifeline].compact.each(&:close) }
        @children.clear
        Process.setpgid(0, 0)
        [to_parent, lifeline].each { |io| io.close_on_exec = true }
        $0 = "callboard #{command['do']} #{command['id']}"
        Dir.chdir('/')
        File.umask(0o022)
        yield.work(to_parent, lifeline)
      end
      to_parent.close
      lifeline.close
      held.close_on_exec = true
      @children[command['id']] = Child.new(command['id'], pid, from_child, held, +'')
      say(id: command['id'], started: { pid: pid })
    end

    # Whole lines go on as they are; what a child left unfinished is dropped.
    def forward(child)
      chunk = child.messages.read_nonblock(READ_BYTES, exception: false)
      return if chunk == :wait_readable

      if chunk.nil?
        child.messages.close
        child.messages = nil
        return
      end
      child.buffer << chunk
      last = child.buffer.rindex("\n") or return
      MESSAGES.write(child.buffer.slice!(0..last))
      chunk
    end

    def reap
      @children.values.each do |child|
        next unless Process.waitpid(child.pid, Process::WNOHANG)

        status = $?
        nil while child.messages && forward(child)
        child.messages&.close
        child.lifeline.close
        @children.delete(child.id)
        say(id: child.id, exited: { code: status.exitstatus, signal: status.termsig && Signal.signame(status.termsig) })
      end
    end

    def say(message)
      MESSAGES.write("#{JSON.generate(message)}\n")
    end
  end
end

begin
  Runner.run
rescue Errno::EPIPE
  # The daemon is gone.
end
exit!(0)
