# frozen_string_literal: true

require 'digest'
require 'puppet'
require 'puppet/pops'
require_relative '../read_set'
require_relative '../variable_reads'

module Callboard
  module Trace
    # Forms of the language in which it can be seen which part of a variable is read: $facts['os']['family'], dig, get,
    # getvar, fact, fqdn_rand, and hiera's %{facts.os.family}. All other forms count as reads of the whole.
    module Access
      Model = Puppet::Pops::Model

      NAVIGATIONS = %w[dig get].freeze
      HINTED = %w[getvar fact fqdn_rand].freeze
      # SHA-256 of stdlib's `fact`, as far as we know it: 8.5.
      STDLIB_FACT = %w[10eb4da2d090949285d0e94ca24d102c0c17c782e06714f070a9202a3d74d388].freeze

      # For the evaluator.
      module Evaluator
        def eval_VariableExpression(expression, scope)
          ReadSet.current&.variable = expression
          super
        end

        def eval_AccessExpression(expression, scope)
          variables = ReadSet.current&.variables
          return super unless variables && Access.chain?(expression.left_expr)

          handing_over = variables.hands_over?(expression)
          left, origin = Access.chase(variables, expression.left_expr) { |inner| evaluate(inner, scope) }
          begin
            keys = access_keys(expression, left, scope)
            origin, narrow = VariableReads.step(origin, left, keys) if origin
            result = access(expression, left, keys, scope)
            if narrow && handing_over
              variables.hand_over(origin)
              origin = nil
            end
            result
          ensure
            variables.settle(origin)
          end
        end

        def eval_CallMethodExpression(expression, scope)
          functor = expression.functor_expr
          return super unless functor.is_a?(Model::NamedAccessExpression) && functor.right_expr.is_a?(Model::QualifiedName)

          navigate(functor.right_expr.value, functor.left_expr, expression.arguments || [], expression, scope) { super }
        end

        def eval_CallNamedFunctionExpression(expression, scope)
          functor = expression.functor_expr
          first, *others = expression.arguments
          return super unless first && functor.is_a?(Model::QualifiedName)

          navigate(functor.value, first, others, expression, scope) { super }
        end

        def call_function(name, arguments, expression, scope, &block)
          variables = HINTED.include?(name) && ReadSet.current&.variables
          hint = variables && !block && Access.hint(name, arguments, scope)
          return super unless hint

          variables.hinted(*hint) { super }
        end

        private

        # As Puppet evaluates what is between the brackets.
        def access_keys(expression, left, scope)
          references = left.is_a?(Puppet::Pops::Types::PClassType)
          (expression.keys || []).map do |key|
            next evaluate(key, scope) unless references && key.is_a?(Model::QualifiedReference)

            Puppet::Pops::Types::TypeParser.singleton.interpret(key)
          end
        end

        def access(expression, left, keys, scope)
          resource = Puppet::Pops::Types::PResourceType
          return keys[0] if left == resource::DEFAULT && keys.size == 1 && keys[0].is_a?(resource)

          Puppet::Pops::Evaluator::AccessOperator.new(expression).access(left, scope, *keys)
        end

        # dig and get on a part of a variable; the block does everything else.
        def navigate(name, subject, arguments, expression, scope)
          variables = NAVIGATIONS.include?(name) && expression.lambda.nil? && ReadSet.current&.variables
          return yield unless variables && Access.chain?(subject) && Access.repeatable?(subject)

          value, origin = Access.chase(variables, subject) { |inner| evaluate(inner, scope) }
          unless origin && (value.is_a?(Hash) || value.is_a?(Array))
            variables.settle(origin)
            return yield
          end
          begin
            evaluated = unfold([value], arguments, scope)
            steps = name == 'dig' ? evaluated.drop(1) : VariableReads.dotted(evaluated[1])
            origin = [origin[0], origin[1] + VariableReads.walk(value, steps || [])]
          ensure
            variables.settle(origin)
          end
          call_function(name, evaluated, expression, scope)
        end
      end

      # Hiera looks at each lookup whether the variables of hiera.yaml are still what they were.
      module Hierarchy
        def scope_interpolations_stable?(*)
          variables = ReadSet.current&.variables
          return super unless variables

          variables.parts(Access.parts(@scope_interpolations)) { super }
        end
      end

      module_function

      def install
        Puppet::Pops::Evaluator::EvaluatorImpl.prepend(Evaluator)
        Puppet::Pops::Lookup::HieraConfig.prepend(Hierarchy)
        install_interpolation
      end

      # {name => [steps, …]} of what a hiera.yaml interpolates. One object for the same list, as it is asked for at each lookup.
      def parts(interpolations)
        @parts ||= {}.compare_by_identity
        @parts[interpolations] ||= interpolations.group_by { |_, root, _, _| root.delete_prefix('::') }
                                                 .transform_values { |all| all.map { |_, _, steps, _| steps } }
      end

      # For hiera's %{…}, wherever it stands: Puppet keeps one table of what can stand in there.
      def install_interpolation
        interpolation = Puppet::Pops::Lookup::Interpolation
        asker = Object.new.extend(interpolation)
        original = asker.send(:interpolate_method, :scope)
        table = interpolation.class_variable_get(:@@interpolate_methods)
        interpolation.class_variable_set(:@@interpolate_methods, table.merge(scope: interpolated(original)).freeze)
      end

      def interpolated(original)
        lambda do |text, invocation, subject|
          variables = ReadSet.current&.variables
          name, *steps = VariableReads.dotted(text.delete_prefix('::')) if variables
          next original.call(text, invocation, subject) unless name

          variables.hinted(name, steps) { original.call(text, invocation, subject) }
        end
      end

      # A variable of the top scope by its plain name, with any number of brackets behind it.
      def chain?(expression)
        expression = expression.left_expr while expression.is_a?(Model::AccessExpression)
        !variable(expression).nil?
      end

      # Its brackets hold nothing that must not be evaluated twice.
      def repeatable?(expression)
        while expression.is_a?(Model::AccessExpression)
          plain = expression.keys.all? { |key| key.is_a?(Model::LiteralValue) || key.is_a?(Model::QualifiedName) }
          return false unless plain

          expression = expression.left_expr
        end
        true
      end

      def variable(expression)
        return nil unless expression.is_a?(Model::VariableExpression) && expression.expr.is_a?(Model::QualifiedName)

        name = expression.expr.value.delete_prefix('::')
        name unless name.include?('::')
      end

      def chase(variables, expression)
        variables.chase(variable(expression), expression) { yield expression }
      end

      # [variable, steps] of what the function will read first, or nil.
      def hint(name, arguments, scope)
        return ['facts', %w[networking fqdn]] if name == 'fqdn_rand'
        return (['facts', fact_steps(arguments[0])] if stdlib_fact?(scope)) if name == 'fact'

        root, *steps = VariableReads.dotted(arguments[0].to_s.delete_prefix('::'))
        [root, steps] if root
      end

      # As stdlib takes the name apart.
      def fact_steps(text)
        text.to_s.scan(/[^."]+|"[^"]+"/).map { |part| part.delete('"') }
      end

      # A module's own function of this name may do anything.
      def stdlib_fact?(scope)
        function = scope.compiler.loaders.private_environment_loader.load(:function, 'fact')
        path = function.class.instance_method(:fact).source_location[0]
        STDLIB_FACT.include?(ReadSet.current.mute { Digest::SHA256.file(path).hexdigest })
      rescue StandardError
        false
      end
    end
  end
end
