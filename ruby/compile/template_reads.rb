# frozen_string_literal: true

require 'digest'
require 'puppet'
require 'ripper'

module Callboard
  # Which variables an ERB template uses, as instance variables and of its scope, found in its text. Puppet hands it every variable
  # there is.
  class TemplateReads
    ENTRIES_MAX = 20_000
    BYTES_MAX = 1024 * 1024
    # With these, a template may use variables that it does not name.
    OPEN = /instance_variable|instance_eval|instance_exec|\b(?:eval|class_eval|binding|send|__send__|public_send|to_hash|self|
            method|methods|itself|tap|then|yield_self|inspect|dup|clone|ObjectSpace|Marshal|TracePoint|enum_for|to_enum)\b/x.freeze

    # Worth a look: a part of a variable that is taken from the scope.
    SCOPE_CHAIN = /\bscope(?:\[|\.lookupvar\b)[^\[\]\n]*(?:\]|\))\s*\[/.freeze
    # Calls of functions see to it by themselves that their reads are told of.
    SCOPE_CALL = /\A(?:call_function|function_\w+)\z/.freeze
    # Puppet's own name for the scope.
    SCOPE_VARIABLE = [:on_ivar, '@__scope__'].freeze

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
      remembered(Digest::SHA256.digest(text)) do
        @missed << path if path
        analyse(text)
      end
    end

    # {variable => [[step…]…]} of those that the template takes by `scope['facts']['os']` or `scope.lookupvar('facts')['os']`, each
    # time one part of it. Empty where it does anything with its scope that may be the same for a variable it does not name.
    def of_scope(text)
      return {} unless readable?(text) && SCOPE_CHAIN.match?(text)

      remembered(Digest::SHA256.digest("scope\0#{text}")) { analyse_scope(text) }
    end

    # Analyses ahead.
    def warm(path)
      text = File.binread(path).force_encoding(Encoding::UTF_8)
      of(text)
      of_scope(text)
    rescue StandardError, SyntaxError
      nil
    end

    private

    def remembered(key)
      return @found[key] if @found.key?(key)

      @found.shift if @found.size >= ENTRIES_MAX
      @found[key] = yield
    end

    # Of the Ruby that the text is made into; nil where that may use variables without naming them.
    def tokens_of(text)
      tokens = Ripper.lex(Puppet::Util.create_erb(text).src).map { |_, type, word, _| [type, word] }
      tokens unless OPEN.match?(text) && tokens.any? { |type, word| opens?(type, word) }
    end

    def readable?(text)
      text.bytesize <= BYTES_MAX && text.valid_encoding?
    end

    def analyse(text)
      return nil unless readable?(text)
      return [] unless OPEN.match?(text) || text.include?('@')

      tokens = tokens_of(text)
      return nil if tokens.nil?

      found = tokens.each_index.select { |at| tokens[at][0] == :on_ivar }.map { |at| chain(tokens, at) }
      found.uniq
    rescue SyntaxError, StandardError
      nil
    end

    def analyse_scope(text)
      tokens = tokens_of(text)&.reject { |type, _| type == :on_sp }
      return {} if tokens.nil? || tokens.include?(SCOPE_VARIABLE)

      found = Hash.new { |all, name| all[name] = [] }
      tokens.each_index.select { |at| tokens[at] == [:on_ident, 'scope'] }.each do |at|
        next if tokens[at + 1] == [:on_period, '.'] && SCOPE_CALL.match?(tokens[at + 2].to_a[1].to_s)

        name, after = scope_variable(tokens, at + 1)
        return {} if name.nil?

        found[name.delete_prefix('::')] << steps(tokens, after)
      end
      found.reject { |_, parts| parts.any?(&:empty?) }
    rescue SyntaxError, StandardError
      {}
    end

    # [variable, place of the token after it]: of `['name']` and `.lookupvar('name')`.
    def scope_variable(tokens, at)
      at += 2 if tokens[at, 2] == [[:on_period, '.'], [:on_ident, 'lookupvar']]
      open, quote, word, unquote, close = tokens[at, 5]
      return unless [%i[on_lbracket on_rbracket], %i[on_lparen on_rparen]].include?([open, close].map { |token| token.to_a[0] })
      return unless [quote, word, unquote].map { |token| token.to_a[0] } == %i[on_tstring_beg on_tstring_content on_tstring_end]

      [word[1], at + 5] unless word[1].include?('\\')
    end

    # Words of the template's text, and `then` after `if`, are harmless.
    def opens?(type, word)
      type == :on_kw ? word == 'self' : %i[on_ident on_const].include?(type) && OPEN.match?(word)
    end

    # "@facts['os']['family']" as ["facts", "os", "family"].
    def chain(tokens, at)
      [tokens[at][1].delete_prefix('@'), *steps(tokens, at + 1)]
    end

    # The literal keys in brackets from there on.
    def steps(tokens, at)
      steps = []
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
