# frozen_string_literal: true

require 'puppet'
require 'puppet/pops'
require_relative '../read_set'

module Callboard
  module Trace
    # Hiera's YAML, JSON and eyaml files by root key. What the value of a key is depends on the file alone, and the control plane
    # knows how to take such files apart (data_keys.rb); what is encrypted counts by its encrypted text. Files of every other
    # backend count as a whole.
    module Data
      # Is the file taken apart as JSON? The control plane goes by its name.
      KEYED = { 'yaml_data' => false, 'eyaml_lookup_key' => false, 'json_data' => true }.freeze

      # For the provider of `data_hash` levels.
      module Hash
        private

        def data_value(invocation, location, root_key)
          reads = ReadSet.current
          reads.data_key(location.location, root_key, self) if reads && Data.keyed?(reads, function_name, location)
          super
        end

        def call_data_hash_function(context, invocation, location)
          reads = ReadSet.current
          reads && Data.keyed?(reads, function_name, location) ? reads.mute { super } : super
        end
      end

      # For the provider of `lookup_key` levels. What a value asks for in its turn, and keys to decrypt with, are told of as ever.
      module Key
        private

        def lookup_key(key, invocation, location, merge)
          reads = ReadSet.current
          return super unless reads && Data.keyed?(reads, function_name, location) && location.exist?

          path = location.location.to_s
          reads.data_key(path, key, self)
          reads.but(path) { super }
        end
      end

      # Which lookup_options there are for a key. Who has them explained sees them all.
      module Options
        def lookup_lookup_options(key, *)
          ReadSet.current&.option(key.root_key)
          super
        end

        private

        def retrieve_lookup_options(module_name, invocation, *)
          reads = ReadSet.current
          reads && invocation.explainer.nil? ? reads.choose_options { super } : super
        end
      end

      # Whatever a value asks for in its turn.
      module Interpolated
        def interpolate(value)
          reads = ReadSet.current
          reads ? reads.but(nil) { super } : super
        end
      end

      module_function

      def install
        Puppet::Pops::Lookup::LookupAdapter.prepend(Options)
        Puppet::Pops::Lookup::Context.prepend(Interpolated)
        Puppet::Pops::Lookup::DataHashFunctionProvider.prepend(Hash)
        Puppet::Pops::Lookup::LookupKeyFunctionProvider.prepend(Key)
      end

      # Only a file of the code version: others are not taken apart.
      def keyed?(reads, function, location)
        return false unless KEYED.key?(function) && location && location.location.is_a?(Pathname)

        path = location.location.to_s
        reads.inside?(path) && path.end_with?('.json') == KEYED[function]
      end
    end
  end
end
