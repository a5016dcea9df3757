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
          return super unless reads&.variables

          reads.template(string ? nil : file, Templates.scoped(reads, string, file, scope)) do
            used = Templates.used(reads, string, file)
            next super(string) unless used

            Templates.tell(reads, used, scope)
            reads.binding_for(scope) { super(string) }
          end
        end
      end

      module_function

      def install
        Puppet::Parser::TemplateWrapper.prepend(Wrapper)
      end

      def used(reads, string, path)
        reads.mute do
          TemplateReads.current.of(string || Puppet::FileSystem.read_preserve_line_endings(path), (path unless string))
        end
      rescue SystemCallError
        nil
      end

      # What a template in a file takes of its scope part by part is told at once; the variables' names.
      def scoped(reads, string, path, scope)
        return [] if string

        parts = reads.mute { TemplateReads.current.of_scope(Puppet::FileSystem.read_preserve_line_endings(path)) }
        tell(reads, parts.flat_map { |name, all| all.map { |steps| [name, *steps] } }, scope) unless parts.empty?
        parts.keys
      rescue SystemCallError
        []
      end

      # Those that the template's own scope has set do not come from the top.
      def tell(reads, used, scope)
        top = scope.compiler.topscope
        values = reads.bind { top.to_hash }
        local = scope.equal?(top) ? {} : scope.instance_variable_get(:@ephemeral).last
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
