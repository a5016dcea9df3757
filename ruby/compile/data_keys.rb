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

    # {root key => digest}, or nil.
    def of(text, kind)
      data = load(text, kind)
      raise Whole unless data.is_a?(Hash)

      data.to_h do |key, value|
        # One key that is no text is an error for every look-up in the file.
        raise Whole unless key.is_a?(String) && key.valid_encoding?

        [key.encode(Encoding::UTF_8), Digest::SHA256.hexdigest(text(value))]
      end
    rescue Whole, Psych::Exception, JSON::JSONError, ArgumentError, EncodingError, SystemCallError, SystemStackError
      nil
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
