# frozen_string_literal: true

require 'digest'
require 'puppet'
require 'puppet/pops'

module Callboard
  # Parsed manifests, by path inside the code version and hash of their text. Parsing is pure, so what the parent and the interpreter parsed while idle
  # serves every compile forked from them. A model names its file in its locator; a process works for one code version
  # only, so the locator is simply told the path that is asked for.
  class ParseCache
    ENTRIES_MAX = 20_000

    class << self
      attr_accessor :current
    end

    # Files that had to be parsed in this process.
    attr_reader :missed
    # The directory of the code version that is worked on.
    attr_accessor :root

    def initialize
      @models = {}
      @missed = []
    end

    def fetch(path)
      text = File.binread(path)
      key = Digest::SHA256.digest("#{path.delete_prefix(@root.to_s)}\0#{text}")
      model = @models[key]
      if model
        model.locator.instance_variable_set(:@file, path) if model.locator.file != path
        return model
      end
      model = yield
      @missed << path
      @models.shift if @models.size >= ENTRIES_MAX
      @models[key] = model if model.respond_to?(:locator)
      model
    rescue SystemCallError
      yield
    end

    # Parses ahead. What cannot be parsed is left for the compile to complain about.
    def warm(path)
      Puppet::Pops::Parser::EvaluatingParser.singleton.parse_file(path)
    rescue StandardError
      nil
    ensure
      @missed.clear
    end

    # Put before Puppet's own method.
    module Hook
      def parse_file(file)
        cache = ParseCache.current
        cache ? cache.fetch(file) { super } : super
      end
    end
  end
end

Puppet::Pops::Parser::EvaluatingParser.prepend(Callboard::ParseCache::Hook)
