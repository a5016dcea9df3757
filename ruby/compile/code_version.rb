# frozen_string_literal: true

require 'json'
require 'puppet'
require_relative 'tree_paths'

module Callboard
  # A code version on disk, as an environment of Puppet's: environment.conf and hiera.yaml of the tree count, the
  # modulepath is the resolved one of `.callboard/environment.json`. `config_version` is left out on purpose: a catalog's
  # version is its hash, and the command would run on this machine for nothing.
  class CodeVersion
    include Puppet::Environments::EnvironmentLoader

    # environment.conf with our modulepath.
    class Configuration < Puppet::Settings::EnvironmentConf
      attr_accessor :resolved_modulepath

      def modulepath
        resolved_modulepath.join(File::PATH_SEPARATOR)
      end

      def config_version
        nil
      end
    end

    CORE_FUNCTIONS = Dir.glob('puppet/functions/**/*.rb', base: $LOAD_PATH.find do |path|
      File.file?(File.join(path, 'puppet/functions/include.rb'))
    end).map { |file| file.delete_prefix('puppet/functions/').delete_suffix('.rb').gsub('/', '::') }.freeze

    class << self
      # Puppet's own functions, as entries of a loader: evaluating their code takes a third of a second, which the parent spends
      # once for all code versions. Left out are those that bring types of their own, which are bound to their loader.
      def core
        @core ||= begin
          environment = Puppet::Node::Environment.create(:core, [])
          Puppet.override(environments: Puppet::Environments::Static.new(environment), current_environment: environment) do
            load_functions(Puppet::Pops::Loaders.new(environment))
          end
        end
      end

      # Functions that need a library which is not here (hocon, eyaml) say so when they are called.
      def load_function(loader, name)
        loader.load(:function, name)
      rescue StandardError, LoadError
        nil
      end

      private

      def load_functions(loaders)
        loader = loaders.puppet_system_loader
        Puppet.override(loaders: loaders) do
          CORE_FUNCTIONS.each { |name| load_function(loader, name) }
        end
        entries = CORE_FUNCTIONS.filter_map { |name| loader.get_entry(Puppet::Pops::Loader::TypedName.new(:function, name)) }
        entries.select { |entry| entry.value && entry.value.loader.equal?(loader) && entry.value.class.loader.equal?(loader) }
      end
    end

    attr_reader :directory, :name
    # What Puppet had to say before any compile; every compile says it again.
    attr_reader :messages

    def initialize(name, directory)
      @name = name.to_sym
      @messages = []
      @directory = File.realpath(directory)
      relative = JSON.parse(File.read(File.join(@directory, '.callboard', 'environment.json'))).fetch('modulepath')
      @modulepath = relative.map { |path| File.join(@directory, path) }
    end

    # Symbolic links of the tree: {relative path => where it leads}.
    def links
      @links ||= TreePaths.links(@directory)
    end

    # Puppet's environment. Nothing was evaluated in it; only processes forked from this one may do that.
    def environment
      @environment ||= Puppet.override(environments: self) do
        Puppet.settings.clear_environment_settings(@name)
        values = Puppet.settings.values(@name, Puppet.settings.preferred_run_mode)
        Puppet::Node::Environment.create(@name, @modulepath, values.interpolate(:manifest))
      end
    end

    # What every compile would find out and load first, and what no module has a part in: the list of modules, their loaders,
    # Puppet's own functions. Those take their scope from the compile that calls them.
    def prepare
      links
      listened { load_first }
    end

    # Keeps what Puppet has to say in the block.
    def listened(&block)
      Puppet::Util::Log.with_destination(Puppet::Test::LogCollector.new(@messages), &block)
    end

    def load_first
      Puppet.override(environments: self, current_environment: environment) do
        environment.modules
        loaders = Puppet::Pops::Loaders.new(environment)
        Puppet.override(loaders: loaders) do
          loaders.pre_load
          loader = loaders.puppet_system_loader
          self.class.core.each { |entry| loader.set_entry(entry.typed_name, entry.value.class.new(nil, loader), entry.origin) }
          CORE_FUNCTIONS.each { |name| self.class.load_function(loader, name) }
        end
      end
    end

    def list
      [environment]
    end

    def get(name)
      environment if name.to_sym == @name
    end

    def get_conf(name)
      return nil unless name.to_sym == @name

      @configuration ||= Configuration.load_from(@directory, []).tap { |conf| conf.resolved_modulepath = @modulepath }
    end

    def search_paths
      ["file://#{@directory}"]
    end

    def clear_all; end

    private :load_first

    # `text` with the directory cut off: "/state/code/1a2b/site.pp" becomes "site.pp".
    def relative(text)
      text.to_s.gsub("#{@directory}/", '')
    end
  end
end
