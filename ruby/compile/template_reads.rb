# frozen_string_literal: true

require 'digest'
require 'puppet'
require 'ripper'

module Callboard
  # Which variables an ERB template uses as instance variables, found in its text. Puppet hands it every variable there is.
  class TemplateReads
    ENTRIES_MAX = 20_000
    BYTES_MAX = 1024 * 1024
    # With these, a template may use variables that it does not name.
    OPEN = /instance_variable|instance_eval|instance_exec|\b(?:eval|class_eval|binding|send|__send__|public_send|to_hash|self|
            method|methods|itself|tap|then|yield_self|inspect|dup|clone|ObjectSpace|Marshal|TracePoint|enum_for|to_enum)\b/x.freeze

    class << self
      attr_accessor :current
    end

    # Templates that had to be analysed in this process.
    attr_reader :missed

    def initialize
      @found = {}
      @missed = []
    end

    # [[variable, step…]…], or nil: it may use all of them.
    def of(text, path = nil)
      key = Digest::SHA256.digest(text)
      return @found[key] if @found.key?(key)

      @missed << path if path
      @found.shift if @found.size >= ENTRIES_MAX
      @found[key] = analyse(text)
    end

    # Analyses ahead.
    def warm(path)
      of(File.binread(path).force_encoding(Encoding::UTF_8))
    rescue StandardError, SyntaxError
      nil
    end

    private

    def analyse(text)
      return nil if text.bytesize > BYTES_MAX || !text.valid_encoding?

      open = OPEN.match?(text)
      return [] unless open || text.include?('@')

      tokens = Ripper.lex(Puppet::Util.create_erb(text).src).map { |_, type, word, _| [type, word] }
      return nil if open && tokens.any? { |type, word| opens?(type, word) }

      found = tokens.each_index.select { |at| tokens[at][0] == :on_ivar }.map { |at| chain(tokens, at) }
      found.uniq
    rescue SyntaxError, StandardError
      nil
    end

    # Words of the template's text, and `then` after `if`, are harmless.
    def opens?(type, word)
      type == :on_kw ? word == 'self' : %i[on_ident on_const].include?(type) && OPEN.match?(word)
    end

    # "@facts['os']['family']" as ["facts", "os", "family"].
    def chain(tokens, at)
      steps = [tokens[at][1].delete_prefix('@')]
      at += 1
      while tokens[at, 5]&.map(&:first) == %i[on_lbracket on_tstring_beg on_tstring_content on_tstring_end on_rbracket]
        text = tokens[at + 2][1]
        break if text.include?('\\')

        steps << text
        at += 5
      end
      steps
    end
  end
end
