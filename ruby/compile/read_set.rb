# frozen_string_literal: true

require_relative 'outside_reads'
require_relative 'places'
require_relative 'tree_paths'

module Callboard
  # What one compile looked at, as keys and never as values (PROTOCOL.md, Reads). The hooks in trace/ tell it; it is open
  # in the process of one compile only, so nothing here has to be undone. Where a hook cannot know better it tells of too
  # much: a key too many costs a compile, a key too few leaves a wrong catalog in place.
  class ReadSet
    # Places told of; beyond, one more says nothing new.
    PLACES_MAX = 100
    # Steps of a path that lead nowhere or up.
    ROUNDABOUT = %r{/(?:\.{1,2})?(?:/|\z)}.freeze
    # Where compiles run (parent.rb): the only place that relative paths of theirs can lead to.
    DIRECTORY = '/'
    # What a code version is read for before any compile begins.
    ALWAYS = ['file environment.conf', 'file .callboard/environment.json'].freeze
    # A fact of one of these names keeps every manifest from being compiled.
    FORBIDDEN_FACTS = [%w[facts facts], %w[facts server_facts]].freeze
    EVERYTHING = [['facts'], ['trusted'], ['server_facts']].freeze
    OPTIONS = 'lookup_options'
    OPTION_PARTS = { patterns: "#{OPTIONS}\tpatterns", modules: "#{OPTIONS}\tmodules" }.freeze

    class << self
      # The set of the compile that this process is for, or nil.
      attr_accessor :current

      def open(code_version)
        self.current = new(code_version)
      end
    end

    attr_reader :places, :root
    # Facts and their like; nil until Puppet has put them where a compile finds them.
    attr_accessor :variables

    def initialize(code_version)
      @root = code_version.directory
      @prefix = "#{@root}/"
      @tree = TreePaths.new(code_version)
      @places = Places.new(@root)
      @outside = OutsideReads.new(self)
      @kinds = {}
      @modes = {}
      @files = {}
      @stats = {}.compare_by_identity
      @lists = {}
      @globs = {}
      @keys = {}
      @options = {}
      @names = {}
      @data = {}
      @volatile = {}
      @lints = {}
      @muted = 0
      @quiet = 0
    end

    # --- things of the code version, or of this machine where the path leads there ---

    def kind(path)
      note(@kinds, :kind, path)
    end

    # Of an open file it may be that of any file that was read.
    def mode(path)
      path.is_a?(IO) ? @all_modes = true : note(@modes, :mode, path)
    end

    def file(path)
      note(@files, :file, path)
    end

    # `stat` is of this path.
    def stat(stat, path)
      @stats[stat] = path_of(path)
      stat
    end

    # Somebody takes the mode out of a File::Stat.
    def mode_of(stat)
      path = @stats[stat]
      path ? mode(path) : @all_modes = true
    end

    def list(path)
      note(@lists, :list, path)
    end

    def glob(pattern, base = nil)
      return if @muted.positive?

      pattern = path_of(pattern)
      return if pattern.nil?

      base = path_of(base) || Dir.pwd unless pattern.start_with?('/')
      pattern = File.join(base, pattern) unless pattern.start_with?('/')
      pattern = File.expand_path(pattern) if ROUNDABOUT.match?(pattern)
      return if @globs.key?(pattern)

      @globs[pattern] = pattern.start_with?(@prefix)
      return if @globs[pattern]

      return @outside.kind(pattern) unless TreePaths.pattern?(pattern)

      volatile("looks for files outside the code version by a pattern: #{pattern}") unless own?(pattern)
    end

    # Which modules there are.
    def modules
      @modules = true
    end

    # The value of a root key in a data file of a kind that the control plane can take apart. `provider`: Puppet's, that asks.
    def data_key(path, key, provider)
      keys = (@keys[path.to_s] ||= {})
      return keys[key] = true unless @choosing && key == OPTIONS

      keys[:patterns] = true
      keys[:modules] = true if provider.module_name
    end

    # Within the block, lookup_options are read for nothing but the entries that `option` tells of.
    def choose_options
      before, @choosing = @choosing, true
      yield
    ensure
      @choosing = before
    end

    # What lookup_options say of this key.
    def option(key)
      @options[key] = true
    end

    # Somebody may have seen all entries.
    def whole_options
      @whole_options = true
    end

    def name(kind, name)
      (@names[kind] ||= {})[name] = true
    end

    # True where the path lies in the code version.
    def inside?(path)
      path.start_with?(@prefix) || path == @root
    end

    # Ruby's, Puppet's and our own files: the same for every catalog of this worker.
    def own?(path)
      @outside.own?(path)
    end

    # --- what is not code ---

    # `path`: root, then keys and indexes.
    def data(path)
      @data[path] = true
    end

    def everything
      EVERYTHING.each { |path| data(path) }
      whole_options
      lint
    end

    # Ruby code that may get at facts where nobody sees it.
    def back_door(place)
      EVERYTHING.each { |path| data(path) }
      whole_options
      lint(place)
    end

    # Somebody read all facts at once.
    def lint(place = nil)
      return if @lints.size >= PLACES_MAX

      @lints[place || @places.here(@variable)] = true
    end

    # The variable that is being evaluated, so that a lint can say where.
    attr_writer :variable

    # Within the block, a template that was read for its variables takes all of `scope` as instance variables.
    def binding_for(scope)
      before, @binding_for = @binding_for, scope
      yield
    ensure
      @binding_for = before
    end

    # Within the block, a template is rendered whose text names all parts that it takes of these variables.
    def template(path, variables)
      before, @template = @template, variables.empty? ? nil : [path.to_s.delete_prefix(@prefix), variables]
      yield
    ensure
      @template = before
    end

    # It is that text which takes the variable now, and no function that it calls.
    def told_by_template?(name)
      @template && @template[1].include?(name) && @places.of_code&.first == @template[0]
    end

    # True, once, for the scope that is taken.
    def binds?(scope)
      return false unless @binding_for.equal?(scope)

      @binding_for = nil
      true
    end

    def bind
      @binding = true
      yield
    ensure
      @binding = false
    end

    def binding?
      @binding
    end

    def environment_variable(name)
      @outside.environment_variable(name) unless @quiet.positive?
    end

    # `reason` completes "It …".
    def volatile(reason, place = nil)
      return if @quiet.positive? || @volatile.size >= PLACES_MAX

      @volatile[[reason, place || @places.here(@variable)]] = true
    end

    # --- what is not to be told ---

    # Reads of files in the block are told of in another way.
    def mute
      @muted += 1
      yield
    ensure
      @muted -= 1
    end

    # The bytes of this one file are told of in another way.
    def but(path)
      before, @but = @but, path
      yield
    ensure
      @but = before
    end

    # What the block finds out about this machine has no part in a catalog.
    def quiet
      @quiet += 1
      yield
    ensure
      @quiet -= 1
    end

    def quiet?
      @quiet.positive?
    end

    # --- the answer ---

    # Nothing was looked at but the code version, and what is recorded can hold for any node.
    def of_code_alone?
      @volatile.empty? && @outside.to_h.empty?
    end

    # Files of the code version, relative, in the order in which they were first read.
    def files
      @files.select { |_, told| told }.keys.filter_map { |path| path.delete_prefix(@prefix) if path.start_with?(@prefix) }
    end

    def to_h
      @muted += 1
      inputs = (ALWAYS + (@modules ? ['modules'] : []) + tree_inputs + name_inputs).uniq.sort
      {
        'inputs' => inputs,
        'data' => shortest(@data.keys + FORBIDDEN_FACTS),
        'outside' => @outside.to_h,
        'volatile' => @volatile.keys.map { |reason, (file, line)| { 'reason' => reason, 'file' => file, 'line' => line } },
        'lints' => @lints.keys.map { |file, line| { 'message' => LINT, 'file' => file, 'line' => line } },
      }
    end

    LINT = 'reads all facts at once, so every change of any fact compiles the catalog again; ' \
           "name the one that is needed, as in $facts['os']['family']"

    private

    def note(seen, what, path)
      return if @muted.positive?

      path = path_of(path) unless path.instance_of?(String)
      return if path.nil? || path == @but || seen.key?(path)

      seen[path] = true
      return if path.start_with?(@prefix) && !ROUNDABOUT.match?(path)

      elsewhere(seen, what, path)
    end

    def elsewhere(seen, what, path)
      return volatile('runs a command') if path.start_with?('|')

      full = File.expand_path(path, DIRECTORY)
      if inside?(full)
        seen[path] = false unless path == full
        seen[full] = true
      else
        seen[path] = false
        # Puppet tries names of templates as paths, where nothing is.
        relative = !path.start_with?('/') && mute { !File.exist?(full) }
        @outside.public_send(what, full) unless @quiet.positive? || relative
      end
    rescue ArgumentError # No path at all: it holds a zero byte, or a user nobody knows.
      seen[path] = false
    end

    # Files are named by text, by Pathname, by what has to_path; open files were told of when they were opened.
    def path_of(path)
      case path
      when String then path
      when nil, Integer, IO then nil
      else
        text = path.respond_to?(:to_path) ? path.to_path : (path.to_str if path.respond_to?(:to_str))
        text if text.is_a?(String)
      end
    end

    def tree_inputs
      files, others = @files.select { |_, told| told }.keys.partition { |path| file?(path) }
      directories, absent = others.partition { |path| File.directory?(path) }
      files += absent
      kinds = @kinds.select { |path, told| told && !@files[path] }.keys + directories + absent
      lists = @lists.select { |_, told| told }.keys
      modes = (@all_modes ? @files.merge(@modes) : @modes).select { |_, told| told }.keys
      inputs = files.flat_map { |path| one('file', path) } + kinds.flat_map { |path| one('kind', path) } +
               modes.flat_map { |path| one('mode', path) } + lists.flat_map { |path| one('list', path) }
      @globs.each { |pattern, told| inputs.concat(@tree.glob(pattern.delete_prefix(@prefix))) if told }
      inputs + option_inputs + @keys.flat_map { |path, keys| key_inputs(path, keys.keys) }
    end

    def option_inputs
      @whole_options ||= !@options.each_key.all? { |key| plain?(key) }
      return [] if @whole_options || @keys.each_value.none? { |keys| keys.key?(:patterns) }

      @options.keys.map { |key| "option #{key}" }
    end

    def plain?(key)
      key.is_a?(String) && key.valid_encoding? && key.match?(/\A[^\t\n]+\z/)
    end

    def key_inputs(path, keys)
      path = File.expand_path(path)
      keys += [OPTIONS] if @whole_options && keys.include?(:patterns)
      keys = keys.uniq.map { |key| OPTION_PARTS.fetch(key, key) }
      plain = (keys - OPTION_PARTS.values).all? { |key| plain?(key) } && !path.match?(/[\t\n]/)
      *links, last = one(plain ? 'data' : 'file', path)
      links + (last&.start_with?('data ') ? keys.map { |key| "#{last}\t#{key}" } : [last].compact)
    end

    # A directory has no bytes, and what is not there may come to be one.
    def file?(path)
      !File.lstat(path).directory?
    rescue SystemCallError
      false
    end

    # The key of one path, with those of the links on the way; where they lead outside that is told of there.
    def one(what, path)
      links, real = @tree.resolve(path.delete_prefix(@prefix).then { |relative| relative == @root ? '.' : relative })
      what = 'kind' if what == 'file' && links.any? && File.directory?(File.join(@root, real))
      return links.map { |link| "file #{link}" } << "#{what} #{real}" unless real.start_with?('/')

      @outside.public_send(what == 'data' ? :file : what, real)
      links.map { |link| "file #{link}" }
    end

    def name_inputs
      @names.flat_map { |kind, names| names.keys.map { |name| "name #{kind} #{name}" } }
    end

    # Without the paths below one that is there itself.
    def shortest(paths)
      known = paths.to_h { |path| [path, true] }
      kept = paths.uniq.reject { |path| (1...path.size).any? { |length| known.key?(path.first(length)) } }
      kept.sort_by { |path| JSON.generate(path) }
    end
  end
end
