# File contents of a run come from the node's own content directory. A catalog names them as `puppet:///sha256/<hex>`; the bytes
# are checked twice: here against their name, and by Puppet against the metadata's checksum before the file is put in place.
#
# And a guard: a run asks no control plane and no Puppet server. What would (a `puppet:///` source that the catalog does not
# carry, a filebucket on a server) fails with a sentence that says so.

require 'digest'

module LocalContent
  SCHEME = 'puppet:///sha256/'.freeze
  NAME = /\A[0-9a-f]{64}\z/.freeze

  class << self
    # @return [Array<String>] names that were looked for and were not there, or whose bytes were damaged
    attr_reader :lacking

    def from(directory)
      @directory = directory
      @lacking = []
      Puppet::Type.type(:file)
      Puppet::Type::File::ParameterSource.prepend(Source)
      Puppet::HTTP::Session.prepend(NoServer)
    end

    def each_chunk(hash)
      path = File.join(@directory, hash[0, 2], hash)
      digest = Digest::SHA256.new
      File.open(path, 'rb') do |file|
        while (chunk = file.read(64 * 1024))
          digest << chunk
          yield chunk
        end
      end
      return if digest.hexdigest == hash

      # Out of the way, so that the daemon fetches it again.
      File.rename(path, "#{path}.damaged")
      @lacking << hash
      raise Puppet::Error, "The local content #{hash} is damaged and was put aside"
    rescue Errno::ENOENT
      @lacking << hash
      raise Puppet::Error, "The content #{hash} is not on this node"
    end
  end

  module Source
    private

    def each_chunk_from(&block)
      uri = metadata&.content_uri.to_s
      return super unless uri.start_with?(SCHEME)

      hash = uri.delete_prefix(SCHEME)
      raise Puppet::Error, "#{uri} names no content" unless NAME.match?(hash)

      LocalContent.each_chunk(hash, &block)
    end
  end

  module NoServer
    def route_to(name, *_args, **_options)
      raise Puppet::Error, "A run asks no server, and this asked for the service '#{name}': " \
                           'the catalog does not carry what is needed here'
    end
  end
end
