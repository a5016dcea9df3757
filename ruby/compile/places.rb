# frozen_string_literal: true

require 'puppet'
require 'puppet/pops'

module Callboard
  # Where in the code version something happens: [file, line], found by walking up from here. Ruby's own libraries are
  # passed through, since a module's code called them; Puppet's are where the walk ends, since whatever called Puppet
  # only asked it to do what it always does.
  class Places
    PUPPET = "#{File.dirname($LOADED_FEATURES.find { |path| path.end_with?('/puppet/version.rb') })}/"
    # Module code asks these of Puppet itself.
    PASSED = %w[parser/scope.rb parser/templatewrapper.rb facter_impl.rb util/execution.rb].map { |path| "#{PUPPET}#{path}" }.freeze
    OURS = "#{__dir__}/"
    FRAMES_MAX = 60
    INLINE_TEMPLATE = '(erb)'

    def initialize(root)
      @prefix = "#{root}/"
    end

    # The place in a module's Ruby code that led here, or nil where Puppet itself did.
    def of_code
      start = 2
      while start < FRAMES_MAX
        frames = caller_locations(start, 6)
        return nil if frames.nil? || frames.empty?

        frames.each do |frame|
          path = frame.path
          next if path.nil? || path.start_with?(OURS, '<')
          return [path.delete_prefix(@prefix), frame.lineno] if path.start_with?(@prefix)
          return manifest if path == INLINE_TEMPLATE
          return nil if path.start_with?(PUPPET) && !PASSED.include?(path)
        end
        start += 6
      end
      nil
    end

    # The place in whatever language. `variable`: the expression that is being evaluated, if it is one.
    def here(variable = nil)
      of_code || (variable && of_expression(variable)) || manifest
    end

    # The call in a manifest that we are in.
    def manifest
      file, line = Puppet::Pops::PuppetStack.top_of_stack
      file.is_a?(String) ? [file.delete_prefix(@prefix), line] : [nil, nil]
    end

    private

    def of_expression(variable)
      locator = variable.locator
      file = locator.file
      file.is_a?(String) && !file.empty? ? [file.delete_prefix(@prefix), variable.line] : nil
    end
  end
end
