# frozen_string_literal: true

require 'puppet'
require 'puppet/parser/templatewrapper'
require_relative '../read_set'
require_relative '../template_reads'

module Callboard
  module Trace
    # ERB templates get every variable in sight, whether they use it or not. What they use is in their text.
    module Templates
      module Wrapper
        def result(string = nil)
          reads = ReadSet.current
          text = reads&.variables && Templates.text(reads, string, file)
          return super unless text

          used = TemplateReads.current.of(text, (file unless string))
          Templates.tell(reads, used, scope) if used
          reads.template(file, string ? [] : Templates.tell_of_scope(reads, text, scope)) do
            used ? reads.binding_for(scope) { super(string) } : super(string)
          end
        end
      end

      module_function

      def install
        Puppet::Parser::TemplateWrapper.prepend(Wrapper)
      end

      def text(reads, string, path)
        string || reads.mute { Puppet::FileSystem.read_preserve_line_endings(path) }
      rescue SystemCallError
        nil
      end

      # What a template takes of its scope part by part is told at once; the names of those variables. One that the scope has set
      # itself may be meant, or that of the top.
      def tell_of_scope(reads, text, scope)
        parts = TemplateReads.current.of_scope(text)
        return [] if parts.empty?

        local = local_variables(scope)
        parts = parts.reject { |name, _| local.include?(name) }
        tell(reads, parts.flat_map { |name, all| all.map { |steps| [name, *steps] } }, scope)
        parts.keys
      end

      def local_variables(scope)
        scope.equal?(scope.compiler.topscope) ? {} : scope.instance_variable_get(:@ephemeral).last
      end

      # Those that the template's own scope has set do not come from the top.
      def tell(reads, used, scope)
        values = reads.bind { scope.compiler.topscope.to_hash }
        local = local_variables(scope)
        used.each do |name, *steps|
          next if local.include?(name)

          reads.variables.part(name, values[name], steps)
          # Instance variables have plainer names than facts may have.
          values.each_key { |other| reads.variables.whole(other) if other != name && other.gsub(/[^\w]/, '_') == name }
        end
      end
    end
  end
end
