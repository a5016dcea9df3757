# frozen_string_literal: true

require 'puppet'
require_relative 'trace'

module Callboard
  # Code of modules that compiles load by name: manifests, functions, data types, resource types. To load it is much of the work
  # of a compile, so an interpreter can be told to do that before it forks. It loads and never evaluates: nothing of a node is
  # near, and what was read for it becomes part of the read set of every compile.
  class Loads
    # Something that cannot be loaded ahead of a compile.
    class Unfit < StandardError; end

    # By the path within a module.
    FORMS = {
      %r{\Amanifests/(.+)\.pp\z} => :manifest,
      %r{\Afunctions/(.+)\.pp\z} => :own_function,
      %r{\Alib/puppet/functions/(.+)\.rb\z} => :function,
      %r{\Alib/puppet/parser/functions/([^/]+)\.rb\z} => :old_function,
      %r{\Atypes/(.+)\.pp\z} => :data_type,
      %r{\Alib/puppet/type/([^/]+)\.rb\z} => :resource_type,
    }.freeze
    CODE = /\.(?:pp|rb)\z/.freeze

    # Of the files that were read, those that an interpreter may load ahead, in the order in which they were.
    def self.of(paths)
      paths.grep(CODE)
    end

    def initialize(code_version, paths)
      @code_version = code_version
      @paths = paths.map { |path| File.join(code_version.directory, path) }
    end

    # Gives the read set to go on with. Raises Unfit where a compile would have to do it by itself: something is wrong with the
    # code, or it looks at more than the code version while it is loaded.
    def run
      reads = Trace.begin(@code_version)
      environment = @code_version.environment
      Puppet.override(environments: @code_version, current_environment: environment) do
        @loaders = Puppet::Pops::Loaders.new(environment)
        Puppet.override(loaders: @loaders) do
          environment.check_for_reparse
          @types = environment.known_resource_types
          @paths.each { |path| load(path) }
        end
      end
      raise Unfit, 'the code looks at more than the code version' unless reads.of_code_alone?

      reads
    rescue Unfit
      raise
    rescue StandardError, ScriptError, SystemStackError => e
      raise Unfit, e.message
    ensure
      ReadSet.current = nil
    end

    private

    def load(path)
      root, mod = modules.find { |directory, _| path.start_with?(directory) }
      relative = root && path.delete_prefix(root)
      form, kind = root && FORMS.find { |pattern, _| pattern.match?(relative) }
      send(kind, relative[form, 1].gsub('/', '::'), mod) if kind
    end

    # {directory with a slash => name}
    def modules
      @modules ||= @code_version.environment.modules.to_h { |mod| ["#{mod.path}/", mod.name] }
    end

    def manifest(name, mod)
      name = name == 'init' ? mod : "#{mod}::#{name}"
      @types.find_hostclass(name) || @types.find_definition(name)
    end

    def own_function(name, mod)
      loader.load(:function, "#{mod}::#{name}")
    end

    def function(name, _mod)
      loader.load(:function, name)
    end

    def old_function(name, _mod)
      Puppet::Parser::Functions.function(name.to_sym)
    end

    def data_type(name, mod)
      loader.load(:type, "#{mod}::#{name}")
    end

    def resource_type(name, _mod)
      Puppet::Type.type(name.to_sym)
    end

    def loader
      @loaders.private_environment_loader
    end
  end
end
