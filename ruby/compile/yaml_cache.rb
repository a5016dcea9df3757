# frozen_string_literal: true

require 'digest'
require 'puppet'
require 'puppet/util/yaml'

module Callboard
  # Loaded YAML files, by the hash of their text. An entry is handed out once in a process, so that nobody shares an object
  # that another caller may change; processes forked later find it again.
  class YamlCache
    ENTRIES_MAX = 20_000

    class << self
      attr_accessor :current
    end

    # Files that had to be loaded in this process, with the classes that they were allowed to hold.
    attr_reader :missed

    def initialize
      @data = {}
      @missed = []
    end

    def fetch(text, allowed, path)
      key = Digest::SHA256.digest("#{allowed.join(',')}\0#{text}")
      return @data.delete(key) if @data.key?(key)

      data = yield
      @missed << path.to_s unless path.nil? || allowed != [Symbol]
      data
    end

    # Loads ahead, with what Hiera allows.
    def warm(path)
      text = Puppet::FileSystem.read(path, encoding: 'utf-8')
      key = Digest::SHA256.digest("#{[Symbol].join(',')}\0#{text}")
      return if @data.key?(key)

      @data.shift if @data.size >= ENTRIES_MAX
      @data[key] = Puppet::Util::Yaml.safe_load(text, [Symbol], path)
    rescue StandardError
      nil
    ensure
      @missed.clear
    end

    # Put before Puppet's own method.
    module Hook
      def safe_load(yaml, allowed_classes = [], filename = nil)
        cache = YamlCache.current
        return super unless cache && yaml.is_a?(String)

        cache.fetch(yaml, allowed_classes, filename) { super }
      end
    end
  end
end

Puppet::Util::Yaml.singleton_class.prepend(Callboard::YamlCache::Hook)
