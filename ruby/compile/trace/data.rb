# frozen_string_literal: true

require 'puppet'
require 'puppet/pops'
require_relative '../read_set'

module Callboard
  module Trace
    # Hiera's YAML and JSON files by root key. What the value of a key is depends on the file alone, and the control plane
    # knows how to take such files apart (data_keys.rb). Files of every other backend count as a whole.
    module Data
      KEYED = %w[yaml_data json_data].freeze

      # For the provider of `data_hash` levels.
      module Hash
        private

        def data_value(invocation, location, root_key)
          reads = ReadSet.current
          reads.data_key(location.location, root_key) if reads && keyed?(location)
          super
        end

        def call_data_hash_function(context, invocation, location)
          reads = ReadSet.current
          reads && keyed?(location) ? reads.mute { super } : super
        end

        # Only a file of the code version: others are not taken apart.
        def keyed?(location)
          KEYED.include?(function_name) && location && location.location.is_a?(Pathname) &&
            ReadSet.current.inside?(location.location.to_s)
        end
      end

      module_function

      def install
        Puppet::Pops::Lookup::DataHashFunctionProvider.prepend(Hash)
      end
    end
  end
end
