# frozen_string_literal: true

require 'pathname'
require_relative '../read_set'

module Callboard
  module Trace
    # Every way in which Ruby looks at files, told to the open read set before it happens. Pathname, FileUtils, Find and
    # Puppet::FileSystem end in these. What C code opens by itself (require, load) is in names.rb.
    module Files
      # Asked of a name; the answer says nothing of the bytes.
      KINDS = %i[exist? exists? file? directory? readable? readable_real? writable? writable_real? symlink? pipe? socket?
                 blockdev? chardev? owned? grpowned? setuid? setgid? sticky? ftype readlink realpath realdirpath].freeze
      # The answer tells an executable file from another.
      MODES = %i[executable? executable_real? world_readable? world_writable?].freeze
      # The answer changes with the bytes.
      CONTENTS = %i[size size? zero? empty? mtime ctime atime birthtime].freeze
      # Bytes; the mode where it is taken out of the answer.
      STATS = %i[stat lstat].freeze

      # For File and FileTest.
      module Names
        { kind: KINDS, mode: MODES, file: CONTENTS }.each do |what, names|
          names.each do |name|
            class_eval <<~RUBY, __FILE__, __LINE__ + 1
              def #{name}(path, *)
                ReadSet.current&.#{what}(path)
                super
              end
            RUBY
          end
        end
        STATS.each do |name|
          class_eval <<~RUBY, __FILE__, __LINE__ + 1
            def #{name}(path)
              reads = ReadSet.current
              return super unless reads

              reads.file(path)
              reads.stat(super, path)
            end
          RUBY
        end

        def identical?(one, other)
          ReadSet.current&.then { |reads| [one, other].each { |path| reads.file(path) } }
          super
        end
      end

      # For IO and File as classes.
      module Reads
        %i[read binread readlines foreach sysopen].each do |name|
          class_eval <<~RUBY, __FILE__, __LINE__ + 1
            def #{name}(path, *, **)
              ReadSet.current&.file(path)
              super
            end
          RUBY
        end

        def copy_stream(from, to, *)
          ReadSet.current&.file(from)
          super
        end
      end

      # File.open and File.new both come here. What is only written is not read.
      module Opened
        def initialize(*arguments, **)
          ReadSet.current&.then { |reads| reads.file(arguments[0]) unless Files.written?(arguments[1]) }
          super
        end
      end

      # `open` without a receiver, and Kernel.open.
      module Opens
        def open(path, *, **)
          ReadSet.current&.file(path) if path.is_a?(String) || path.respond_to?(:to_path)
          super
        end
      end

      # `test` without a receiver, and Kernel.test.
      module Tests
        def test(_, *paths)
          ReadSet.current&.then { |reads| paths.each { |path| [reads.file(path), reads.mode(path)] } }
          super
        end
      end

      # A time of a file says when the code version was put on this machine.
      module Times
        %i[mtime ctime atime birthtime].each do |name|
          define_method(name) do |*arguments|
            reads = ReadSet.current
            place = reads&.places&.of_code
            reads.volatile('looks at the time of a file', place) if place
            super(*arguments)
          end
        end
      end

      # For Dir as a class.
      module Directories
        %i[children each_child entries foreach open empty?].each do |name|
          class_eval <<~RUBY, __FILE__, __LINE__ + 1
            def #{name}(path, *, **)
              ReadSet.current&.list(path)
              super
            end
          RUBY
        end

        def exist?(path)
          ReadSet.current&.kind(path)
          super
        end

        def glob(pattern, *, base: nil, **)
          reads = ReadSet.current
          [pattern].flatten.each { |one| reads.glob(one, base) } if reads
          super
        end

        def [](*patterns, base: nil, **)
          reads = ReadSet.current
          patterns.flatten.each { |one| reads.glob(one, base) } if reads
          super
        end
      end

      # Dir.new.
      module OpenedDirectories
        def initialize(path, *, **)
          ReadSet.current&.list(path)
          super
        end
      end

      # File::Stat.new, and what tells the mode. Of an open file's it is not known which file that is.
      module Stat
        def initialize(path)
          reads = ReadSet.current
          reads&.file(path)
          super
          reads&.stat(self, path)
        end

        (MODES + %i[mode inspect]).each do |name|
          define_method(name) do
            ReadSet.current&.mode_of(self)
            super()
          end
        end
      end

      module_function

      def install
        existing = (KINDS + MODES + CONTENTS + STATS + [:identical?]).select { |name| File.respond_to?(name) }
        File.singleton_class.prepend(only(Names, existing))
        FileTest.singleton_class.prepend(only(Names, existing.select { |name| FileTest.respond_to?(name) }))
        times = only(Times, File.instance_methods(false))
        File.singleton_class.prepend(times)
        IO.singleton_class.prepend(Reads)
        File.prepend(Opened)
        File::Stat.prepend(Stat)
        File::Stat.prepend(only(Times, File::Stat.instance_methods(false)))
        Dir.singleton_class.prepend(Directories)
        Dir.prepend(OpenedDirectories)
        Kernel.singleton_class.prepend(Opens, Tests)
        Object.prepend(Opens.dup.tap { |hooks| hooks.send(:private, :open) }, Tests.dup.tap { |hooks| hooks.send(:private, :test) })
      end

      # A file opened like this is not read.
      def written?(mode)
        case mode
        when String then mode.start_with?('w') || (mode.start_with?('a') && !mode.include?('+'))
        when Integer then (mode & File::WRONLY).positive?
        end
      end

      # `hooks` without the methods that this Ruby does not have.
      def only(hooks, names)
        hooks.dup.tap { |copy| (copy.instance_methods(false) - names).each { |name| copy.send(:remove_method, name) } }
      end
    end
  end
end
