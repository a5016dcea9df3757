# frozen_string_literal: true

module Callboard
  # Nobody outlives whom it works for. On Linux the kernel sees to it (prctl); everywhere each process also ends when its
  # connection to the control plane does.
  module ProcessGuard
    PRCTL = { 'x86_64' => 157, 'aarch64' => 167, 'arm64' => 167 }.freeze
    PR_SET_PDEATHSIG = 1
    PR_SET_CHILD_SUBREAPER = 36

    module_function

    # SIGKILL for this process as soon as `parent`, which started it, is gone.
    def die_with(parent)
      prctl(PR_SET_PDEATHSIG, 9)
      exit!(1) unless Process.ppid == parent
    end

    # Orphans of the processes below come to this process, and not to init, so that it can end them.
    def adopt_orphans
      prctl(PR_SET_CHILD_SUBREAPER, 1)
    end

    # The kernel, short of memory, takes this process first.
    def spare_others
      File.write('/proc/self/oom_score_adj', '800')
    rescue SystemCallError
      nil
    end

    def end_group(pid)
      Process.kill('KILL', -pid)
    rescue SystemCallError
      nil
    end

    def end_process(pid)
      Process.kill('KILL', pid)
    rescue SystemCallError
      nil
    end

    def prctl(option, value)
      number = RUBY_PLATFORM.include?('linux') && PRCTL[RbConfig::CONFIG['host_cpu']]
      return unless number

      verbose, $VERBOSE = $VERBOSE, nil # Kernel#syscall warns of itself.
      Kernel.syscall(number, option, value, 0, 0, 0)
    rescue SystemCallError, NotImplementedError
      nil
    ensure
      $VERBOSE = verbose if number
    end
    private_class_method :prctl
  end
end
