# frozen_string_literal: true

require 'puppet'
require 'puppet/pops'
require 'puppet/util/autoload'
require_relative '../read_set'

module Callboard
  module Trace
    # What is looked up by name in all modules: functions, data types, resource types and providers. Puppet finds them with
    # lists of files, one for each module; the list is not what a compile depends on, but whether this name is in it.
    # A compile's process begins without any Ruby of a module, so each first use comes through here.
    module Names
      AUTOLOADED = { 'puppet/parser/functions/' => 'function', 'puppet/type/' => 'resource_type' }.freeze
      PROVIDERS = %r{\A/*puppet/provider/(.+)\z}.freeze
      # Ways for Ruby code to get at facts past everything in facts.rb.
      BACK_DOORS = /instance_variable|instance_eval|instance_exec|ObjectSpace|effective_symtable|qualified_variables|
                    \bunbind\b|bind_call|\bFiddle\b|TracePoint|set_trace_func|Marshal\.dump\(\s*(?:self|\w*scope|compiler|node)/x.freeze
      # What Puppet keeps of all lookup_options.
      OPTIONS = /lookup_options/i.freeze
      # Types and providers never meet a scope.
      WITHOUT_SCOPE = %r{/lib/puppet/(?:type|provider)/}.freeze

      # For the loaders of modules and of the environment. Puppet's own names are found before these are asked.
      module Loader
        def find(typed_name)
          reads = ReadSet.current
          Names.looked_up(reads, typed_name) if reads&.inside?(path)
          super
        end

        def discover(*)
          ReadSet.current&.volatile('lists all functions or types that there are')
          super
        end
      end

      # The list of files behind the loaders.
      module Index
        def add_to_index(*)
          reads = ReadSet.current
          reads ? reads.mute { super } : super
        end
      end

      # For Puppet::Util::Autoload as a class: 3.x functions, resource types, providers, features.
      module Autoload
        def get_file(name, *)
          reads = ReadSet.current
          return super unless reads

          Names.autoloaded(reads, name.to_s)
          reads.mute { super }
        end

        def files_to_load(path, *)
          reads = ReadSet.current
          type = reads && path.to_s[PROVIDERS, 1]
          return super unless type

          reads.name('provider', type)
          reads.mute { super }
        end

        # Providers work on nodes. What they find out about this machine while they are loaded is of no use to a catalog.
        def loadall(path, *)
          reads = ReadSet.current
          reads && PROVIDERS.match?(path.to_s) ? reads.quiet { super } : super
        end
      end

      # Which modules have a `lib` at all.
      module LibDirectories
        def create_adapter(*)
          reads = ReadSet.current
          reads ? reads.mute { super } : super
        end
      end

      # Puppet asks for modules by name. It goes through the list of them for loaders alone, which find what they find by name.
      module Modules
        def module(name)
          ReadSet.current&.name('module', name)
          super
        end

        def modules
          reads = ReadSet.current
          return super unless reads

          reads.modules if reads.places.of_code
          reads.mute { super }
        end

        def module_requirements
          Names.versions_of_modules
          super
        end
      end

      # What the loaders know of a module: whether it is there, and which modules it needs.
      module Resolver
        def [](name)
          ReadSet.current&.name('module', name)
          super
        end
      end

      # What of a metadata.json its module's name does not stand for, when a module's code asks for it.
      module Metadata
        %i[metadata source author version license dependencies summary description project_page].each do |name|
          define_method(name) do
            reads = ReadSet.current
            reads.file(metadata_file) if reads && metadata_file && reads.places.of_code
            super()
          end
        end

        def read_metadata
          reads = ReadSet.current
          reads ? reads.mute { super } : super
        end

        def unmet_dependencies
          Names.versions_of_modules
          super
        end

        def ==(other)
          Names.versions_of_modules
          super
        end
      end

      module_function

      def install
        loaders = Puppet::Pops::Loader::ModuleLoaders
        loaders::AbstractPathBasedModuleLoader.prepend(Loader)
        loaders::FileBased.prepend(Index)
        Puppet::Util::Autoload.singleton_class.prepend(Autoload)
        Puppet::Util::ModuleDirectoriesAdapter.singleton_class.prepend(LibDirectories)
        Puppet::Node::Environment.prepend(Modules)
        Puppet::Pops::Loaders::ModuleResolver.prepend(Resolver)
        Puppet::Module.prepend(Metadata)
        watch_ruby
      end

      # Ruby code that a compile loads, and what it looks for and does not find. Watching begins in the parent: it visits all code
      # that there is, which a compile would pay for.
      def watch_ruby
        TracePoint.new(:script_compiled) { |point| ReadSet.current&.then { |reads| loaded(reads, point) } }.enable
        TracePoint.new(:raise) do |point|
          reads = ReadSet.current
          missing = reads && point.raised_exception
          not_found(reads, missing) if missing.is_a?(LoadError)
        end.enable
      end

      # What is loaded later is loaded by the compile.
      def begin
        @features = $LOADED_FEATURES.size
      end

      # What was loaded without being compiled here: libraries in C.
      def finish(reads)
        later = $LOADED_FEATURES.drop(@features)
        later.each { |path| reads.file(path) if reads.inside?(path) }
        # A module put its lib where `require` looks: then each library loaded since could have come from any module, and so
        # could one in C that was loaded before, since Ruby looks for a `.rb` of its name first.
        return unless $LOAD_PATH.any? { |path| reads.inside?(path.to_s) }

        (later + $LOADED_FEATURES.grep(/\.so\z/)).uniq.each do |path|
          root = $LOAD_PATH.map(&:to_s).select { |one| path.start_with?("#{one}/") }.max_by(&:size)
          reads.name('require', path.delete_prefix("#{root}/").sub(/\.(?:rb|so)\z/, '')) if root
        end
      end

      def versions_of_modules
        reads = ReadSet.current
        reads.volatile('asks which versions of modules there are') if reads&.places&.of_code
      end

      def looked_up(reads, typed_name)
        return if @last.equal?(typed_name) # The same question goes from module to module.

        @last = typed_name
        name = typed_name.name
        case typed_name.type
        when :function then reads.name('function', name)
        when :type
          reads.name('type', name)
          # A type set of the module, or of a part of it, may define it as well.
          while (name = name[/\A(.+)::/, 1])
            reads.name('type', name)
          end
        when :resource_type_pp then reads.file(File.join(reads.root, '.resource_types', "#{name}.pp"))
        else reads.volatile("looks for the #{typed_name.type} #{name}")
        end
      end

      def autoloaded(reads, name)
        name = name.delete_prefix('/').delete_suffix('.rb')
        AUTOLOADED.each do |prefix, kind|
          return reads.name(kind, name.delete_prefix(prefix)) if name.start_with?(prefix)
        end
        reads.name('require', name)
      end

      def loaded(reads, point)
        path = point.instruction_sequence.absolute_path || point.instruction_sequence.path
        return unless path && reads.inside?(path)

        reads.file(path)
        return if WITHOUT_SCOPE.match?(path)

        source = point.eval_script || reads.mute { File.binread(path) }
        reads.back_door([path.delete_prefix("#{reads.root}/"), 1]) if source.b.match?(BACK_DOORS)
        reads.whole_options if source.b.match?(OPTIONS)
      rescue SystemCallError
        nil
      end

      def not_found(reads, missing)
        wanted = missing.path
        return if wanted.nil?
        return reads.name('require', wanted.delete_suffix('.rb')) unless wanted.start_with?('/')

        [wanted, "#{wanted.delete_suffix('.rb')}.rb", "#{wanted}.so"].uniq.each { |path| reads.kind(path) }
      end
    end
  end
end
