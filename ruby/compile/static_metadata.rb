# frozen_string_literal: true

require 'digest'
require 'puppet'
require 'puppet/file_serving/metadata'

module Callboard
  # Makes a catalog static: the answer to every question about a puppet:/// source that an agent would ask the server
  # while it runs is put into the catalog, with the SHA-256 of each file as its address. Puppet's own file server answers,
  # asked as Puppet::Type::File asks; what depends on this machine or this moment (absolute paths, owners, times,
  # the order of a directory) is made constant. Rules: docs/formats/catalog-v1.md.
  class StaticMetadata
    DIRECTORY_CHECKSUM = '{ctime}1970-01-01 00:00:00 +0000'
    PUPPET_SOURCE = %r{\Apuppet://[^/]*(/.*)\z}m.freeze
    # A time as a checksum says when a code version was put on this machine, not what is in the file.
    TIMES = %i[mtime ctime].freeze

    # [{hash, size, path}]: what the catalog needs; `path` only where it is not part of the code version.
    attr_reader :contents
    # Sentences about sources that nobody has.
    attr_reader :warnings

    def initialize(catalog, code_version, certname)
      @catalog = catalog
      @code_version = code_version
      @certname = certname
      @contents = {}
      @warnings = []
      @hashes = {}
    end

    def inline
      @catalog.resources.each do |resource|
        if resource.type == 'File'
          inline_file(resource)
        elsif resource.kind == 'compilable_type' && !resource.class?
          inline_other(resource)
        end
      end
    end

    private

    def inline_file(resource)
      sources = [resource[:source]].flatten.compact
      return if sources.empty?
      # Without a puppet: source the server has no part in it.
      return if sources.none? { |source| source.is_a?(String) && source.start_with?('puppet:') }

      recursive = %w[true remote].include?(resource[:recurse].to_s)
      return if recursive && inline_tree(resource, sources)

      metadata = find_first(resource, sources)
      @catalog.metadata[resource.title] = metadata if metadata
    end

    # The tree of a recursive file. False where the agent will ask for the file itself as well: a source is no directory,
    # or there is none.
    def inline_tree(resource, sources)
      options = options_of(resource).merge(
        recurse: true, recurselimit: resource[:recurselimit], max_files: resource[:max_files], ignore: resource[:ignore],
      )
      found = {}
      sources.each do |source|
        return false if !inlinable?(resource, source)

        source = normalize(source)
        list = ask(resource, source) { Puppet::FileServing::Metadata.indirection.search(source, options) }
        next if list.nil? || list.empty?

        found[source] = list.map { |metadata| settle(metadata, source, options) }
                            .sort_by { |metadata| metadata.relative_path == '.' ? '' : metadata.relative_path.b }
        break if resource[:sourceselect].nil? || resource[:sourceselect].to_s == 'first'
      end
      return false if found.empty?

      @catalog.recursive_metadata[resource.title] = found
      found.values.all? { |list| list.first.ftype == 'directory' }
    end

    # The first source that exists, as the agent picks it.
    def find_first(resource, sources)
      options = options_of(resource)
      sources.each do |source|
        return nil unless inlinable?(resource, source)

        source = normalize(source)
        metadata = ask(resource, source) { Puppet::FileServing::Metadata.indirection.find(source, options) }
        next unless metadata

        settle(metadata, source, options)
        metadata.source = source
        return metadata
      end
      warn_of(resource, "no source exists: #{sources.join(', ')}")
      nil
    end

    # Sources of other types (concat_fragment, archive …) are fetched by those types' own code when they run. They are kept
    # under the source's own text, which can be no file's title.
    def inline_other(resource)
      resource.to_hash.each_value do |value|
        [value].flatten.each do |source|
          next unless source.is_a?(String) && source.start_with?('puppet:///') && !@catalog.metadata.key?(source)

          options = { environment: @catalog.environment_instance, node: @certname, links: :follow, checksum_type: :sha256 }
          metadata = ask(resource, source) { Puppet::FileServing::Metadata.indirection.find(source, options) }
          next if metadata.nil? || metadata.ftype != 'file'

          settle(metadata, source, options)
          metadata.source = source
          @catalog.metadata[source] = metadata
        end
      end
    end

    # Whether the list can be decided here: a path on the node or a web server comes before any puppet: source that exists.
    def inlinable?(resource, source)
      return true if source.is_a?(String) && source.start_with?('puppet:')

      warn_of(resource, 'its list of sources mixes the server with other places, so the node has to ask when it runs')
      false
    end

    def options_of(resource)
      checksum = (resource[:checksum] || :sha256).to_sym
      {
        environment: @catalog.environment_instance,
        node: @certname,
        links: resource[:links] ? resource[:links].to_sym : :manage,
        checksum_type: TIMES.include?(checksum) ? :sha256 : checksum,
        source_permissions: resource[:source_permissions] ? resource[:source_permissions].to_sym : :ignore,
      }
    end

    # What the file server refuses is a warning here, as it is a failed resource, and no failed catalog, on the node.
    def ask(resource, source)
      yield
    rescue StandardError => e
      warn_of(resource, "#{source}: #{@code_version.relative(e.message)}")
      nil
    end

    def normalize(source)
      Puppet::Type.type(:file).attrclass(:source).normalize(source)
    end

    # Takes this machine out of the metadata and gives the file its address.
    def settle(metadata, source, options)
      real = metadata.full_path
      case metadata.ftype
      when 'file'
        address(metadata, real)
      when 'directory'
        set(metadata, :checksum, DIRECTORY_CHECKSUM)
      when 'link'
        set(metadata, :checksum, nil)
      end
      if options[:source_permissions].nil? || options[:source_permissions] == :ignore || inside?(real)
        set(metadata, :owner, 0)
        set(metadata, :group, 0)
        set(metadata, :mode, mode_of(metadata, options))
      end
      metadata.path = source[PUPPET_SOURCE, 1]
      metadata
    end

    # Code versions know one bit of a file's mode; the rest would tell about this machine's umask.
    def mode_of(metadata, options)
      return metadata.mode if options[:source_permissions].nil? || options[:source_permissions] == :ignore
      return metadata.mode if metadata.ftype == 'link'
      return 0o755 if metadata.ftype == 'directory' || (metadata.mode & 0o100).positive?

      0o644
    end

    def address(metadata, path)
      hash, size = hash_of(path)
      metadata.content_uri = "puppet:///sha256/#{hash}"
      @contents[hash] ||= inside?(path) ? { 'hash' => hash, 'size' => size } : { 'hash' => hash, 'size' => size, 'path' => path }
    end

    def hash_of(path)
      @hashes[path] ||= [Digest::SHA256.file(path).hexdigest, File.size(path)]
    end

    def inside?(path)
      File.realpath(path).start_with?("#{@code_version.directory}/")
    rescue SystemCallError
      path.start_with?("#{@code_version.directory}/")
    end

    def set(metadata, name, value)
      metadata.instance_variable_set(:"@#{name}", value)
    end

    def warn_of(resource, reason)
      warnings << {
        'level' => 'warning',
        'message' => "#{resource.ref}: #{reason}",
        'file' => resource.file && @code_version.relative(resource.file),
        'line' => resource.line,
      }
    end
  end
end
