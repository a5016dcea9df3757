# frozen_string_literal: true

require 'English'

module Callboard
  # Paths of a code version as the control plane knows them: relative, and with no link on the way. A link counts as a
  # file of its own, whose bytes are where it leads.
  class TreePaths
    WILD = /[*?\[\]{}\\]/.freeze
    # What both sides understand alike. Everything else is told as lists of directories.
    PLAIN = %r{\A(?:[^*?\[\]{}\\]|\*\*(?=/|\z)|\*(?!\*)|\?)*\z}.freeze
    LINKS_FOLLOWED_MAX = 40
    BRACES_MAX = 64

    def self.pattern?(text)
      WILD.match?(text)
    end

    # All links of a tree: {relative path => where it leads, absolute}.
    def self.links(directory)
      find_links(directory).to_h do |relative|
        path = File.join(directory, relative)
        [relative, File.expand_path(File.readlink(path), File.dirname(path))]
      end
    end

    # The program `find` takes a tenth of the time, since it need not look at each file.
    def self.find_links(directory)
      found = IO.popen(['find', '.', '-type', 'l', '-print0', { chdir: directory }], &:read)
      raise "find could not look at #{directory}" unless $CHILD_STATUS.success?

      found.split("\0").map { |path| path.delete_prefix('./') }
    rescue Errno::ENOENT
      Dir.glob('**/*', File::FNM_DOTMATCH, base: directory).select { |relative| File.symlink?(File.join(directory, relative)) }
    end
    private_class_method :find_links

    def initialize(code_version)
      @root = code_version.directory
      @links = code_version.links
    end

    # [links on the way, path without any]: relative, or absolute where it leads out of the code version.
    def resolve(relative)
      return [[], relative] if @links.empty?

      followed = []
      while (link = link_of(relative))
        return [followed, relative] if followed.size >= LINKS_FOLLOWED_MAX

        followed << link
        target = File.join(@links[link], relative.delete_prefix(link))
        target = File.expand_path(target)
        return [followed, target] unless target.start_with?("#{@root}/")

        relative = target.delete_prefix("#{@root}/")
      end
      [followed, relative]
    end

    # The keys for a glob with this pattern.
    def glob(pattern)
      pattern = pattern.squeeze('/')
      braces(pattern).flat_map { |one| self.class.pattern?(one) ? wild(one) : plain('kind', one) }
    end

    private

    def link_of(relative)
      return relative if @links.key?(relative)

      at = -1
      while (at = relative.index('/', at + 1))
        part = relative[0, at]
        return part if @links.key?(part)
      end
      nil
    end

    def plain(what, relative)
      links, real = resolve(relative)
      links.map { |link| "file #{link}" } + (real.start_with?('/') ? [] : ["#{what} #{real}"])
    end

    def wild(pattern)
      base = fixed(pattern)
      links, real = resolve(base)
      told = links.map { |link| "file #{link}" }
      return told if real.start_with?('/')

      rest = base == '.' ? pattern : pattern.delete_prefix("#{base}/")
      told << "glob #{real == '.' ? rest : "#{real}/#{rest}"}"
      told = lists(real) if !PLAIN.match?(rest) || @links.keys.any? { |link| real == '.' || link.start_with?("#{real}/") }
      told
    end

    # Directories of the pattern before the first wildcard.
    def fixed(pattern)
      parts = pattern.split('/')[0..-2].take_while { |part| !WILD.match?(part) }
      parts.empty? ? '.' : parts.join('/')
    end

    # Every directory below, and where the links in it lead: whatever appears in any of them changes one of these keys.
    def lists(base, seen = {})
      return [] if seen.key?(base)

      seen[base] = true
      below = Dir.glob('**/*', File::FNM_DOTMATCH, base: File.join(@root, base)).map { |path| base == '.' ? path : "#{base}/#{path}" }
      directories = below.select { |path| File.lstat(File.join(@root, path)).directory? && !path.end_with?('/.') && path != '.' }
      leading = below.select { |path| @links.key?(path) }
      ["kind #{base}", "list #{base}", *directories.map { |path| "list #{path}" }] + leading.flat_map do |link|
        links, real = resolve(link)
        links.map { |path| "file #{path}" } + (real.start_with?('/') ? [] : lists(real, seen))
      end
    rescue SystemCallError
      ["kind #{base}", "list #{base}"]
    end

    # "{a,b}/c" as "a/c" and "b/c".
    def braces(pattern)
      done = []
      waiting = [pattern]
      while (one = waiting.shift)
        match = /\{([^{}]*)\}/.match(one)
        return [pattern] if done.size + waiting.size > BRACES_MAX

        match && !one.include?('\\') ? match[1].split(',', -1).each { |part| waiting << "#{match.pre_match}#{part}#{match.post_match}" } : done << one
      end
      done
    end
  end
end
