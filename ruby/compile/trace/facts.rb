# frozen_string_literal: true

require 'puppet'
require 'puppet/pops'
require_relative '../read_set'
require_relative '../variable_reads'

module Callboard
  module Trace
    # The places where facts, trusted and server facts leave the top scope or the node.
    module Facts
      # For the top scope of the compile, and no other object.
      module TopScope
        def lookupvar(name, *)
          value = super
        ensure
          Facts.told(name, value)
        end

        def exist?(name)
          Facts.told(name, nil)
          super
        end

        def bound?(name)
          Facts.told(name, nil)
          super
        end

        # A fact of the name would have it fail.
        def setvar(name, *)
          Facts.told(name, nil)
          super
        end

        def has_local_variable?(name)
          Facts.told(name, nil)
          super
        end

        def get_local_variable(name)
          Facts.told(name, nil)
          super
        end

        def dup
          ReadSet.current&.everything
          super
        end

        def clone(**)
          ReadSet.current&.everything
          super
        end
      end

      # For the node of the compile.
      module Node
        %i[facts parameters trusted_data server_facts to_data_hash serializable_parameters dup clone].each do |name|
          define_method(name) do |*arguments|
            ReadSet.current&.everything
            super(*arguments)
          end
        end
      end

      module Compiler
        # Puppet is done with the node when its values are in the top scope.
        def set_node_parameters
          super.tap { Facts.begin(self) }
        end
      end

      module Scope
        # `$::name`, from whatever scope.
        def lookup_qualified_variable(name, options)
          return super if ReadSet.current.nil? || name.include?('::')

          begin
            value = super
          ensure
            Facts.told(name, value)
          end
        end

        def to_hash(*)
          reads = ReadSet.current
          return super unless reads&.variables
          return reads.bind { super } if reads.binds?(self)

          reads.everything if is_topscope? && !reads.binding?
          super
        end
      end

      module_function

      def install
        Puppet::Parser::Compiler.prepend(Compiler)
        Puppet::Parser::Scope.prepend(Scope)
      end

      def begin(compiler)
        reads = ReadSet.current
        return unless reads

        node = compiler.node
        reads.variables = VariableReads.new(reads, node.server_facts.keys)
        compiler.topscope.extend(TopScope)
        node.extend(Node)
      end

      # `name` without `::`, or with nothing before it.
      def told(name, value)
        variables = ReadSet.current&.variables
        return if variables.nil? || !name.is_a?(String) || name.include?('::')

        variables.read(name, value)
      end
    end
  end
end
