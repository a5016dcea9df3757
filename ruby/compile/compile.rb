# frozen_string_literal: true

require 'puppet'
require_relative 'canonical'
require_relative 'loads'
require_relative 'outcome'
require_relative 'request_node'
require_relative 'static_metadata'
require_relative 'trace'

module Callboard
  # One compile: request in, header and catalog out. Runs in a process of its own, which ends afterwards; so nothing here
  # has to be undone.
  class Compile
    # `reads`: of what the interpreter loaded ahead.
    def initialize(code_version, reads = nil)
      @code_version = code_version
      @reads = reads
    end

    # [header, canonical bytes or nil]. Whatever a module's code raises is a result.
    def run(request)
      reads = Trace.begin(@code_version, @reads) unless request['trace'] == false
      header, canonical = answer(request)
      header['loads'] = reads ? Loads.of(reads.files) : []
      header['reads'] = reads && Trace.finish(reads)
      [header, canonical]
    end

    private

    def answer(request)
      outcome = Outcome.new(@code_version)
      outcome.listen
      @code_version.messages.each { |message| Puppet::Util::Log.newmessage(message) }
      begin
        canonical, extra = compile(request)
        header = { 'status' => 'compiled', 'bytes' => canonical.bytesize, 'contents' => extra.contents.values }
        warnings = extra.warnings
      rescue Exception => e # rubocop:disable Lint/RescueException
        canonical = nil
        failure = outcome.failure(e)
        header = { 'status' => 'failed', 'error' => failure }
        warnings = []
      end
      logs = outcome.logs.reject { |log| failure && log['level'] == 'err' && failure['message'].include?(log['message']) }
      header['warnings'] = (logs + warnings).first(Outcome::LOGS_MAX)
      [header, canonical]
    end

    def compile(request)
      environment = @code_version.environment
      Puppet.override(environments: @code_version, current_environment: environment) do
        node = RequestNode.build(request, environment)
        compiled = Puppet::Parser::Compiler.compile(node)
        catalog = compiled.filter(&:virtual?)
        metadata = StaticMetadata.new(catalog, @code_version, node.name)
        metadata.inline
        Puppet.override(rich_data: environment.rich_data?) do
          [Canonical.write(data_of(catalog)), metadata]
        end
      end
    end

    def data_of(catalog)
      data = catalog.to_data_hash
      prefix = "#{@code_version.directory}/"
      data['resources'].each { |resource| resource['file'] = resource['file'].delete_prefix(prefix) if resource['file'] }
      data
    end
  end
end
