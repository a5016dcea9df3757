# frozen_string_literal: true

require 'json'
require 'puppet'
require 'puppet/util/yaml'

module Callboard
  # The node of a compile request, put together as a Puppet server would: facts, then server facts; the ENC's answer as
  # node_terminus=exec reads it; trusted data from the certificate and nothing else.
  module RequestNode
    module_function

    # `request`: see PROTOCOL.md. `environment`: Puppet's environment.
    def build(request, environment)
      certname = request.fetch('certname')
      node = Puppet::Node.new(certname)
      classification = classify(certname, request['enc'])
      node.parameters = classification[:parameters] if classification[:parameters]
      node.classes = classification[:classes] if classification[:classes]
      node.environment = environment
      node.fact_merge(Puppet::Node::Facts.new(certname, facts(request)))
      node.add_server_facts({ 'serverversion' => Puppet.version.to_s }.merge(request['server_facts'] || {}))
      node.trusted_data = trusted(certname, request['trusted_extensions'] || {})
      node
    end

    # The stable document and the volatile values as one, keys in byte order at every depth: `$facts.each` must not
    # depend on the order in which a node happened to send them.
    def facts(request)
      merged = merge(parse(request['facts']), parse(request['volatile_facts']))
      sort(merged)
    end

    def parse(text)
      return {} if text.nil? || text.empty?

      JSON.parse(text, max_nesting: 200)
    end

    def merge(base, over)
      base.merge(over) { |_, a, b| a.is_a?(Hash) && b.is_a?(Hash) ? merge(a, b) : b }
    end

    def sort(value)
      case value
      when Hash then value.sort_by { |key, _| key.b }.to_h { |key, item| [key, sort(item)] }
      when Array then value.map { |item| sort(item) }
      else value
      end
    end

    def trusted(certname, extensions)
      hostname, domain = certname.split('.', 2)
      {
        'authenticated' => 'remote',
        'certname' => certname,
        'extensions' => sort(extensions),
        'hostname' => hostname,
        'domain' => domain,
        'external' => {},
      }
    end

    # `text`: what the ENC printed, or nil where there is none.
    def classify(certname, text)
      return {} if text.nil?
      raise Puppet::Error, "The ENC does not know the node '#{certname}'; cannot compile" if text.strip.empty?

      answer = Puppet::Util::Yaml.safe_load(text, [Symbol])
      raise Puppet::Error, "The ENC's answer for '#{certname}' is not a hash" unless answer.is_a?(Hash)

      answer.to_h { |key, value| [key.to_sym, value] }
    rescue Puppet::Util::Yaml::YamlLoadError => e
      raise Puppet::Error, "Could not load external node results for #{certname}: #{e.message}"
    end
  end
end
