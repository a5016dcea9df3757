# frozen_string_literal: true

require 'json'
require 'socket'

module Callboard
  # One connection to the control plane: JSON, a message a line (PROTOCOL.md). Reading is bounded, so that a peer that
  # never ends its line cannot fill the memory.
  class Lines
    class TooLong < StandardError; end

    attr_reader :io

    # Connects to the socket and shows the one-time token.
    def self.connect(path, token)
      lines = new(UNIXSocket.new(path))
      lines.send('token' => token)
      lines
    end

    def initialize(io, max: 1024 * 1024)
      @io = io
      @max = max
      @buffer = String.new(encoding: Encoding::BINARY)
    end

    def send(message)
      write("#{JSON.generate(message)}\n")
    end

    def write(bytes)
      @io.write(bytes)
      @io.flush
    end

    # The next message, however long it takes; nil when the peer is gone.
    def receive(max = @max)
      line = @io.gets("\n", max)
      return nil if line.nil?
      raise TooLong, "a message is longer than #{max} bytes" unless line.end_with?("\n")

      JSON.parse(line.force_encoding(Encoding::UTF_8), max_nesting: 200)
    end

    # All messages that have arrived, without waiting; nil when the peer is gone. Not to be mixed with `receive`.
    def arrived
      loop do
        chunk = @io.read_nonblock(65_536, exception: false)
        return nil if chunk.nil?
        break if chunk == :wait_readable

        @buffer << chunk
        raise TooLong, "a message is longer than #{@max} bytes" if @buffer.bytesize > @max && !@buffer.include?("\n")
      end
      messages = []
      while (line = @buffer.slice!(/\A[^\n]*\n/n))
        messages << JSON.parse(line.force_encoding(Encoding::UTF_8))
      end
      messages
    rescue Errno::ECONNRESET, Errno::EPIPE, IOError
      nil
    end

    def close
      @io.close
    rescue IOError
      nil
    end
  end
end
