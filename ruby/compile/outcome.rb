# frozen_string_literal: true

require 'puppet'
require 'puppet/pops'

module Callboard
  # What a compile has to say beside its catalog: Puppet's warnings while it ran, and the one sentence of its failure with
  # file and line. Values that were marked Sensitive in this process never get into either.
  class Outcome
    LOGS_MAX = 100
    MESSAGE_BYTES_MAX = 8192
    # Shorter values would blot out half of every sentence.
    SECRET_LENGTH_MIN = 4

    attr_reader :logs

    def initialize(code_version)
      @code_version = code_version
      @logs = []
      @secrets = []
    end

    # Begins to listen. Once a process.
    def listen
      outcome = self
      Puppet::Util::Log.close_all
      Puppet::Util::Log.newdesttype(:callboard) { define_method(:handle) { |message| outcome.logged(message) } }
      Puppet::Util::Log.newdestination(:callboard)
      Puppet::Pops::Types::PSensitiveType::Sensitive.prepend(Module.new do
        define_method(:initialize) do |value|
          outcome.secret(value)
          super(value)
        end
      end)
    end

    def logged(message)
      return if %i[debug info notice].include?(message.level) || @logs.size >= LOGS_MAX

      @logs << {
        'level' => message.level.to_s,
        'message' => sentence(message.message),
        'file' => message.file && @code_version.relative(message.file),
        'line' => message.line,
      }
    end

    def secret(value)
      case value
      when String then @secrets << value if value.length >= SECRET_LENGTH_MIN
      when Hash then value.each_value { |item| secret(item) }
      when Array then value.each { |item| secret(item) }
      end
    end

    # {message, file, line} of anything that can be raised.
    def failure(error)
      file, line = place(error)
      { 'message' => sentence(explain(error)), 'file' => file && @code_version.relative(file), 'line' => line }
    end

    private

    def explain(error)
      case error
      when SystemExit then "Code of a module called exit (status #{error.status}) during the compile"
      when NoMemoryError then "The compile ran out of memory: #{error.message}"
      when SystemStackError then "The compile recursed too deeply: #{error.message}"
      when LoadError then "Code of a module could not be loaded: #{error.message}"
      when SignalException then "The compile was interrupted by #{error.message}"
      when Puppet::Error, Puppet::DataBinding::LookupError, Canonical::Unwritable then error.message
      else "#{error.class}: #{error.message}"
      end
    end

    def place(error)
      cause = error
      5.times do
        break if cause.nil?
        return [cause.file, cause.line] if cause.respond_to?(:file) && cause.file.is_a?(String) && !cause.file.empty?

        cause = cause.cause
      end
      frame = (error.backtrace || []).find { |line| line.start_with?(@code_version.directory) }
      frame ? [frame[/\A(.*?):\d+/, 1], frame[/\A.*?:(\d+)/, 1].to_i] : [nil, nil]
    end

    def sentence(text)
      text = text.to_s.dup.force_encoding(Encoding::UTF_8).scrub('?')
      text = @code_version.relative(text)
      @secrets.sort_by { |secret| -secret.length }.each { |secret| text = text.gsub(secret, '[redacted]') }
      text.bytesize > MESSAGE_BYTES_MAX ? "#{text.byteslice(0, MESSAGE_BYTES_MAX).scrub('')}…" : text
    end
  end
end
