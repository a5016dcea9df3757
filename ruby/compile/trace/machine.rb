# frozen_string_literal: true

require 'date'
require 'etc'
require 'open3'
require 'openssl'
require 'securerandom'
require 'socket'
require 'puppet'
require 'puppet/pops'
require 'puppet/util/execution'
require_relative '../read_set'

module Callboard
  module Trace
    # What a compile learns from this machine and this moment: the environment of the process can be looked at again,
    # clocks, chance, commands, the network and Facter cannot. Puppet itself looks at clocks all the time, for its log and
    # its own bookkeeping; only what a module's code asks for counts.
    module Machine
      # name => what it does, to complete "It …".
      CLOCK = 'reads the clock'
      CHANCE = 'makes a random choice'
      COMMAND = 'runs a command'
      NETWORK = 'uses the network'
      FACTER = 'asks Facter about the machine that compiles'
      SYSTEM = 'asks about the machine that compiles'

      # The answers are a variable's value, or nothing.
      ONE_VARIABLE = %i[[] fetch key? has_key? include? member? assoc].freeze
      ALL_VARIABLES = %i[to_h to_hash to_a each each_pair keys values inspect to_s select filter reject find_all map key
                         value? has_value? rassoc size length empty? filter_map values_at slice any? all? sum reduce
                         find detect clone dup].freeze

      # For ENV.
      module Environment
        ONE_VARIABLE.each do |name|
          define_method(name) do |*arguments, &block|
            reads = ReadSet.current
            reads.environment_variable(arguments[0].to_s) if reads && !reads.quiet? && reads.places.of_code
            super(*arguments, &block)
          end
        end
        ALL_VARIABLES.each do |name|
          define_method(name) do |*arguments, **options, &block|
            Machine.asked('reads the environment of the process')
            super(*arguments, **options, &block)
          end
        end
      end

      # Puppet's own ways to the environment, when a module's code takes them.
      module PuppetUtil
        def get_env(name, *)
          reads = ReadSet.current
          reads.environment_variable(name.to_s) if reads && !reads.quiet? && reads.places.of_code
          super
        end

        def which(*)
          reads = ReadSet.current
          reads.environment_variable('PATH') if reads && !reads.quiet? && reads.places.of_code
          super
        end
      end

      # Told of whoever asks: nobody but code asks for these.
      module Facter
        %i[value [] fact to_hash to_user_output resolve each list].each do |name|
          define_method(name) do |*arguments, **options, &block|
            Machine.told(FACTER)
            super(*arguments, **options, &block)
          end
        end
      end

      module Timestamp
        def now(*)
          Machine.told(CLOCK)
          super
        end
      end

      module Execution
        %i[execute execpipe execfail].each do |name|
          define_method(name) do |*arguments, **options, &block|
            Machine.told(COMMAND)
            super(*arguments, **options, &block)
          end
        end
      end

      # Resources that other nodes export: there is no store of them yet. When there is, what the query found is to be
      # recorded here, as an input of its own.
      module Exported
        def collect(*)
          Machine.told('collects exported resources')
          super
        end
      end

      module_function

      def install
        ENV.singleton_class.prepend(Environment)
        Puppet::Util.singleton_class.prepend(PuppetUtil)
        Puppet::Util.prepend(PuppetUtil)
        ::Facter.singleton_class.prepend(existing(Facter, ::Facter)) if defined?(::Facter)
        Puppet::Pops::Time::Timestamp.singleton_class.prepend(Timestamp)
        Puppet::Util::Execution.singleton_class.prepend(Execution)
        Puppet::Pops::Evaluator::Collectors::ExportedCollector.prepend(Exported)
        install_clocks
        install_chance
        install_commands
        install_network
      end

      def install_clocks
        before(Time, :now, CLOCK)
        before(Time, :new, CLOCK) { |arguments| arguments.empty? }
        before(Date, :today, CLOCK)
        before(DateTime, :now, CLOCK)
        before(Process, :clock_gettime, CLOCK)
        before(Process, :pid, SYSTEM)
        before(Process, :ppid, SYSTEM)
      end

      def install_chance
        before(Random, :rand, CHANCE)
        before(Random, :new, CHANCE) { |arguments| arguments.empty? }
        %i[new_seed seed bytes random_number urandom srand].each { |name| before(Random, name, CHANCE) }
        before(OpenSSL::Random, :random_bytes, CHANCE)
        before(SecureRandom, :bytes, CHANCE)
        before(SecureRandom, :gen_random, CHANCE)
        everywhere(%i[rand srand], CHANCE)
        inside(Array, %i[shuffle shuffle! sample], CHANCE) { |_, options| !options.key?(:random) }
      end

      def install_commands
        everywhere(%i[` system spawn exec fork], COMMAND)
        %i[spawn exec fork daemon].each { |name| before(Process, name, COMMAND) }
        before(IO, :popen, COMMAND)
      end

      def install_network
        [TCPSocket, UDPSocket, UNIXSocket, TCPServer, UNIXServer, Socket].each { |socket| inside(socket, [:initialize], NETWORK) }
        %i[getaddrinfo getnameinfo gethostbyname gethostbyaddr gethostname ip_address_list].each do |name|
          before(Socket, name, NETWORK)
        end
        %i[getaddrinfo tcp udp foreach].each { |name| before(Addrinfo, name, NETWORK) }
        before(IPSocket, :getaddress, NETWORK)
        %i[getlogin getpwnam getpwuid getgrnam getgrgid passwd group uname sysconfdir nprocessors].each do |name|
          before(Etc, name, SYSTEM)
        end
      end

      # A module's code asks; Puppet's asking does not count.
      def asked(reason)
        reads = ReadSet.current
        return if reads.nil? || reads.quiet?

        place = reads.places.of_code
        reads.volatile(reason, place) if place
      end

      def told(reason)
        ReadSet.current&.volatile(reason)
      end

      # Hooks a method of a class or module.
      def before(owner, name, reason, &counts)
        return unless owner.respond_to?(name)

        owner.singleton_class.prepend(hooks([name], reason, counts))
      end

      # Hooks methods of the instances.
      def inside(owner, names, reason, &counts)
        owner.prepend(hooks(names, reason, counts))
      end

      # Hooks methods that can be called without a receiver, and on Kernel.
      def everywhere(names, reason)
        Kernel.singleton_class.prepend(hooks(names, reason, nil))
        Object.prepend(hooks(names, reason, nil).tap { |hooks| hooks.send(:private, *names) })
      end

      def hooks(names, reason, counts)
        Module.new do
          names.each do |name|
            define_method(name) do |*arguments, **options, &block|
              Machine.asked(reason) if ReadSet.current && (counts.nil? || counts.call(arguments, options))
              super(*arguments, **options, &block)
            end
          end
        end
      end

      # `hooks` without the methods that this version of `owner` does not have.
      def existing(hooks, owner)
        hooks.dup.tap do |copy|
          copy.instance_methods(false).each { |name| copy.send(:remove_method, name) unless owner.respond_to?(name) }
        end
      end
    end
  end
end
