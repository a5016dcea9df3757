# frozen_string_literal: true

require 'json'

module Callboard
  # The one text of a catalog (docs/formats/catalog-v1.md): keys in byte order at every depth, arrays in their order, no
  # white space, UTF-8. What differs between equal compiles (version, catalog_uuid, code_id) is not in it.
  module Canonical
    # Says where in the catalog, and what is wrong with it.
    class Unwritable < StandardError
      attr_reader :path

      def initialize(reason)
        super
        @path = []
      end

      def message
        "#{path.join('.')} #{super}"
      end
    end

    # A float as Ruby prints it, whatever the JSON library thinks: 1.0, 0.1, 1.0e+20.
    Float = Struct.new(:value) do
      def to_json(*)
        value.to_s
      end
    end

    DROPPED = %w[version catalog_uuid code_id].freeze

    module_function

    # `data`: a catalog's data hash.
    def write(data)
      JSON.generate(order(data.reject { |key, _| DROPPED.include?(key) }), max_nesting: 500)
    end

    def order(value)
      case value
      when Hash
        pairs = value.map { |key, item| [text(key.to_s), at(key) { order(item) }] }
        # Puppet reads an object of rich data (a Deferred) by the position of its attributes: they stay as it wrote them.
        pairs.sort_by! { |name, _| name.b } unless value.key?('__ptype')
        pairs.to_h
      when Array then value.each_with_index.map { |item, index| at(index) { order(item) } }
      when String then text(value)
      when Symbol then value.to_s
      when ::Float
        raise Unwritable, "is #{value}, which JSON cannot say" unless value.finite?

        Float.new(value)
      else value
      end
    end

    def at(step)
      yield
    rescue Unwritable => e
      e.path.unshift(step)
      raise
    end

    def text(value)
      return value if value.encoding == Encoding::UTF_8 && value.valid_encoding?

      bytes = [Encoding::BINARY, Encoding::UTF_8].include?(value.encoding)
      utf8 = bytes ? value.dup.force_encoding(Encoding::UTF_8) : value.encode(Encoding::UTF_8)
      raise Unwritable, 'is not UTF-8 text; use Binary for other bytes' unless utf8.valid_encoding?

      utf8
    rescue EncodingError
      raise Unwritable, 'is not UTF-8 text; use Binary for other bytes'
    end
  end
end
