# frozen_string_literal: true

# What hiera's data files hold, by root key: a digest of each value, so that a change of one key is told from one of
# another. Reads {"kind", "base64"} a line, answers {"keys"} a line (PROTOCOL.md). Loads no Puppet; what Puppet's yaml_data
# and json_data make of a file is done here again.

Encoding.default_external = Encoding::UTF_8
Encoding.default_internal = nil

require 'date'
require 'digest'
require 'json'
require 'psych'

module Callboard
  # A data file's root keys. Equal digests mean that Puppet sees equal values, in the same order.
  module DataKeys
    # The file counts as a whole: nobody can say which key a change of it is about.
    class Whole < StandardError; end

    module_function

    OPTIONS = 'lookup_options'
    # What may make more of a text than the text.
    OPEN = /%\{|ENC\[/.freeze
    INTEGERS = (-2**63...2**63).freeze

    # {root key => digest}, or nil. Of `lookup_options` more, where that can be taken apart.
    def of(text, kind)
      data = load(text, kind)
      raise Whole unless data.is_a?(Hash)

      data.to_h do |key, value|
        # One key that is no text is an error for every look-up in the file.
        raise Whole unless key.is_a?(String) && key.valid_encoding?

        [key.encode(Encoding::UTF_8), key == OPTIONS && closed?(value) && value.is_a?(Hash) ? options(value) : digest(value)]
      end
    rescue Whole, Psych::Exception, JSON::JSONError, ArgumentError, EncodingError, SystemCallError, SystemStackError
      nil
    end

    def digest(value)
      Digest::SHA256.hexdigest(text(value))
    end

    # An entry holds for the key of its name, a pattern for whatever it matches, in the order of the patterns. Names may have
    # to begin with a module.
    def options(value)
      patterns, entries = value.to_a.partition { |name, _| name.start_with?('^') }
      {
        'whole' => digest(value),
        'patterns' => digest(patterns),
        'modules' => digest(entries.map { |name, _| name[/\A.*?::/m].to_s }.uniq.sort),
        'keys' => entries.to_h { |name, item| [name, digest(item)] },
      }
    end

    # Nothing in it makes Puppet fail for all of it, or asks for anything else.
    def closed?(value)
      case value
      when String
        [Encoding::UTF_8, Encoding::US_ASCII].include?(value.encoding) && value.valid_encoding? && !OPEN.match?(value)
      when Integer then INTEGERS.cover?(value)
      when Float then value.finite?
      when true, false, nil then true
      when Array then value.all? { |item| closed?(item) }
      when Hash then value.all? { |key, item| key.is_a?(String) && closed?(key) && closed?(item) }
      else false
      end
    end

    def load(content, kind)
      case kind
      when 'yaml' then names(Psych.safe_load(content, permitted_classes: [Symbol], aliases: true))
      when 'json' then JSON.parse(content)
      else raise Whole
      end
    end

    # Symbols that are keys are text for Puppet, at every depth.
    def names(value)
      case value
      when Hash then value.each_with_object({}) { |(key, item), all| all[key.is_a?(Symbol) ? key.to_s : key] = names(item) }
      when Array then value.map { |item| names(item) }
      else value
      end
    end

    # A text that no other value has: each part with its type, and with its length where it has any.
    def text(value, out = +'')
      case value
      when String then out << "s#{value.bytesize}:#{value.encoding unless value.ascii_only?}:" << value.b
      when Symbol then out << "y#{value.to_s.bytesize}:" << value.to_s.b
      when Integer then out << "i#{value};"
      when Float then out << "f#{value};"
      when true, false, nil then out << "#{value.inspect};"
      when Array
        out << "a#{value.size}:"
        value.each { |item| text(item, out) }
      when Hash
        out << "h#{value.size}:"
        value.each { |key, item| text(item, text(key, out)) }
      else raise Whole
      end
      out
    end
  end
end

$stdout.sync = true
$stdin.each_line do |line|
  order = JSON.parse(line)
  text = order.fetch('base64').unpack1('m').force_encoding(Encoding::UTF_8)
  puts JSON.generate('keys' => Callboard::DataKeys.of(text, order.fetch('kind')))
end
