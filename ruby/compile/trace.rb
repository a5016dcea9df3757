# frozen_string_literal: true

require_relative 'trace/access'
require_relative 'trace/data'
require_relative 'trace/facts'
require_relative 'trace/files'
require_relative 'trace/machine'
require_relative 'trace/names'
require_relative 'trace/templates'

module Callboard
  # Tells the open read set (read_set.rb) what a compile looks at. The hooks are put in place once, in the parent, and cost
  # next to nothing where no set is open.
  module Trace
    module_function

    def install
      [Access, Data, Facts, Files, Machine, Names, Templates].each(&:install)
    end

    # Begins the trace of this process's one compile; or goes on with `reads`, of what was loaded for it ahead.
    def begin(code_version, reads = nil)
      return ReadSet.current = reads if reads

      ReadSet.open(code_version).tap { Names.begin }
    end

    # What the compile read; nil where that cannot be said, which counts as everything. Whatever is read later is not part of it.
    def finish(reads)
      Names.finish(reads)
      ReadSet.current = nil
      reads.to_h
    rescue StandardError, SystemStackError => e
      warn "reads: #{e.class}: #{e.message}", *(e.backtrace || []).first(5)
      nil
    end
  end
end
