# frozen_string_literal: true

module Callboard
  # Which facts, trusted and server facts a compile read, as paths. They leave the top scope as plain data, so what is
  # read is recorded where a variable leaves it: as a whole, unless whoever asks said before which part will be used
  # (a hint), or takes it upon itself to find that out (deferred).
  class VariableReads
    ROOTS = %w[facts trusted server_facts].freeze
    # Not the node's: Puppet takes it from the environment itself.
    ENVIRONMENT = 'environment'

    # The next one asked for decides for itself which part of the variable it will have read.
    DEFERRED = :deferred

    def initialize(reads, server_facts)
      @reads = reads
      @server_facts = server_facts
      @whole = {}
      @told = {}.compare_by_identity
    end

    # The variable of the top scope was asked for, there or not.
    def read(name, value)
      if @hint && @hint[0] == name
        steps = @hint[1]
        @hint = nil
        return @pending = [roots(name), []] if steps == DEFERRED

        return part(name, value, steps)
      end
      return parts_of(name, value) if @parts&.key?(name)
      return if @reads.told_by_template?(name)

      whole(name)
    end

    # One part of the variable was read; `value` is the whole.
    def part(name, value, steps)
      taken = VariableReads.walk(value, steps)
      return whole(name) if taken.empty?

      roots(name).each { |root| @reads.data(root + taken) }
    end

    def whole(name)
      @reads.lint if name == 'facts'
      return if @whole.key?(name)

      @whole[name] = true
      roots(name).each { |root| @reads.data(root) }
    end

    # Within the block, the next read of the variable is of one part of it.
    def hinted(name, steps)
      @hint = [name, steps]
      yield
    ensure
      @hint = nil
    end

    # Within the block, the variables are read for these parts only: {name => [steps, …]}.
    def parts(parts)
      before, @parts = @parts, parts
      yield
    ensure
      @parts = before
    end

    # True, once, for the access expression that is to hand its path over.
    def hands_over?(expression)
      return false unless @inner.equal?(expression)

      @inner = nil
      true
    end

    # [the block's value, where it comes from or nil]. `name`: the variable that the block evaluates; or `inner`: the access
    # expression, which hands its path over.
    def chase(name, inner)
      @pending = nil
      name ? @hint = [name, DEFERRED] : @inner = inner
      done = false
      value = yield
      done = true
      [value, @pending]
    ensure
      @hint = @inner = nil
      settle(@pending) unless done
      @pending = nil
    end

    # For whoever hands its path over.
    def hand_over(origin)
      @pending = origin
    end

    # Records a path that goes no further.
    def settle(origin)
      return if origin.nil?

      roots, steps = origin
      return whole_of(roots) if steps.empty?

      roots.each { |root| @reads.data(root + steps) }
    end

    # [the origin one step further, true], or [the same origin, false] where it must be taken as a whole from here.
    def self.step(origin, value, keys)
      key = keys[0]
      narrow = keys.size == 1 &&
               ((value.is_a?(Hash) && key.is_a?(String)) || (value.is_a?(Array) && key.is_a?(Integer) && key >= 0))
      narrow ? [[origin[0], origin[1] + [key]], true] : [origin, false]
    end

    # As many of the steps as lead through hashes and arrays.
    def self.walk(value, steps)
      taken = []
      steps.each do |step|
        step = Integer(step, 10) if value.is_a?(Array) && step.is_a?(String) && step.match?(/\A\d+\z/)
        break unless (value.is_a?(Hash) && step.is_a?(String)) || (value.is_a?(Array) && step.is_a?(Integer) && step >= 0)

        taken << step
        value = value[step]
      end
      taken
    end

    # Dotted text as steps; nil where it is more than names and numbers.
    def self.dotted(text)
      return nil unless text.is_a?(String) && text.match?(/\A\w+(?:\.\w+)*\z/)

      text.split('.').map { |part| part.match?(/\A\d+\z/) ? part.to_i : part }
    end

    private

    # The same look at the same variables is repeated again and again; their values stay what they are.
    def parts_of(name, value)
      all = @parts[name]
      return if @told.key?(all)

      @told[all] = true
      all.each { |steps| part(name, value, steps) }
    end

    def whole_of(roots)
      root = roots[0]
      whole(root.size == 1 ? root[0] : root[1])
    end

    # Facts become variables first; a server fact does where no fact has the name.
    def roots(name)
      return [[name]] if ROOTS.include?(name)
      return [] if name == ENVIRONMENT

      @server_facts.include?(name) ? [['facts', name], ['server_facts', name]] : [['facts', name]]
    end
  end
end
