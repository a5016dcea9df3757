# frozen_string_literal: true

require 'digest'
require 'puppet'
require 'puppet/pops'
require 'puppet/util/log'

module Callboard
  # Parsed manifests, functions, types and EPP templates, by parser, path inside the code version and hash of the text.
  # Parsing is pure, so what the parent and the interpreter parsed while idle serves every compile forked from them; what
  # Puppet warned of while it parsed is said again each time. A model names its file in its locator; a process works for
  # one code version only, so the locator is simply told the path that is asked for.
  class ParseCache
    ENTRIES_MAX = 20_000
    PARSED = /\.e?pp\z/.freeze

    Entry = Struct.new(:model, :warnings)

    class << self
      attr_accessor :current
    end

    # Files that had to be parsed in this process.
    attr_reader :missed
    # The directory of the code version that is worked on.
    attr_accessor :root

    def initialize
      @entries = {}
      @missed = []
    end

    def fetch(parser, path, text, &parse)
      key = Digest::SHA256.digest("#{parser}\0#{path.delete_prefix(@root.to_s)}\0#{text}")
      entry = @entries[key]
      return again(entry, path) if entry

      entry = listened(&parse)
      @missed << path
      @entries.shift if @entries.size >= ENTRIES_MAX
      @entries[key] = entry if entry.model.respond_to?(:locator)
      entry.model
    end

    # Parses ahead. What cannot be parsed is left for the compile to complain about.
    def warm(path)
      parsers = Puppet::Pops::Parser::EvaluatingParser
      (path.end_with?('.epp') ? parsers::EvaluatingEppParser.new : parsers.singleton).parse_file(path)
    rescue StandardError
      nil
    ensure
      @missed.clear
    end

    private

    def again(entry, path)
      locator = entry.model.locator
      locator.instance_variable_set(:@file, path) if locator.file != path
      entry.warnings.each { |message| Puppet::Util::Log.newmessage(message) }
      entry.model
    end

    def listened
      warnings = []
      model = nil
      Puppet::Util::Log.with_destination(Puppet::Test::LogCollector.new(warnings)) { model = yield }
      Entry.new(model, warnings)
    end

    # Put before Puppet's own methods; the parser of EPP inherits them.
    module Hook
      def parse_file(file)
        cache = ParseCache.current
        text = cache && PARSED.match?(file.to_s) && read(file)
        text ? cache.fetch(self.class, file, text) { super } : super
      end

      # Functions and types come as text, with the path that they were read from.
      def parse_string(text, file_source = nil)
        cache = ParseCache.current
        known = cache && file_source.is_a?(String) && PARSED.match?(file_source) && file_source.start_with?(cache.root.to_s)
        known ? cache.fetch(self.class, file_source, text.b) { super } : super
      end

      def read(file)
        File.binread(file)
      rescue SystemCallError
        nil
      end
      private :read
    end
  end
end

Puppet::Pops::Parser::EvaluatingParser.prepend(Callboard::ParseCache::Hook)
