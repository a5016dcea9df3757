# frozen_string_literal: true

require 'digest'
require 'rbconfig'
require_relative 'puppet_settings'

module Callboard
  # What a compile looked at on this machine outside the code version, with a digest of what it was just before: anybody
  # can look again and compare.
  class OutsideReads
    BYTES_MAX = 64 * 1024 * 1024
    # The kernel makes these up anew each time.
    MADE_UP = %w[/proc/ /sys/ /dev/].freeze
    OURS = [PuppetSettings::CONFDIR, PuppetSettings::VARDIR].map { |path| "#{path}/" }.freeze

    # Taken before the environment is watched.
    VARIABLE = ENV.method(:[])

    def initialize(reads)
      @reads = reads
      @own = own_directories
      @found = {}
    end

    def to_h
      @found.sort.to_h
    end

    def own?(path)
      path.start_with?(*@own)
    end

    def file(path)
      find('file', path) do
        made_up = MADE_UP.any? { |directory| path.start_with?(directory) } && path != File::NULL
        next volatile("reads #{path}, which is never the same") if made_up

        stat = File.stat(path)
        next kind(path) if stat.directory?
        next volatile("reads from #{path}, which is no file") unless stat.file? || path == File::NULL
        next volatile("reads #{path}, which is too large to be looked at again") if stat.size > BYTES_MAX

        keep("file #{path}", stat.file? ? Digest::SHA256.file(path).hexdigest : Digest::SHA256.hexdigest(''))
      end
    end

    def kind(path)
      find('kind', path) do
        type = File.lstat(path).ftype
        keep("kind #{path}", %w[file directory link].include?(type) ? type : 'other')
        kind(File.expand_path(File.readlink(path), File.dirname(path))) if type == 'link'
      end
    end

    def mode(path)
      find('mode', path) do
        kind(path)
        keep("mode #{path}", format('%o', File.stat(path).mode & 0o7777))
      end
    end

    def list(path)
      find('list', path) do
        names = Dir.children(path).sort_by(&:b)
        keep("list #{path}", Digest::SHA256.hexdigest(names.map { |name| "#{name}\n" }.join))
      end
    end

    def environment_variable(name)
      value = VARIABLE.call(name)
      keep("env #{name}", value && Digest::SHA256.hexdigest(value))
    end

    private

    # Ruby's, Puppet's and ours, which are the same for every catalog.
    def own_directories
      directories = [RbConfig::CONFIG['rubylibprefix'], File.expand_path('..', __dir__), *Gem.path, *$LOAD_PATH]
      directories += Gem.loaded_specs.each_value.map(&:full_gem_path)
      directories.map { |path| File.expand_path(path.to_s) }.uniq
                 .reject { |path| @reads.inside?(path) || path == '/' }.map { |path| "#{path}/" }
    end

    # Absent things of our own two directories are not told of: nothing is ever put there.
    def find(what, path)
      return if @found.key?("#{what} #{path}") || own?("#{path}/")

      @reads.mute do
        yield
      rescue SystemCallError
        keep("#{what} #{path}", nil) unless path.start_with?(*OURS)
      end
    end

    def keep(key, digest)
      @found[key] = digest unless @found.key?(key)
    end

    def volatile(reason)
      @reads.volatile(reason)
    end
  end
end
