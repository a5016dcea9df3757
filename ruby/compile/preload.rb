# frozen_string_literal: true

require 'puppet'

module Callboard
  # Loads what nearly every compile needs of Puppet itself, so that no compile has to: core types (whose providers look at
  # this machine once, some 2 s), the evaluator and core functions. A small manifest of ours is compiled for it; no module is near.
  module Preload
    TYPES = %i[file package service user group exec notify stage cron host mount schedule tidy resources filebucket
               component whit].freeze
    FUNCTIONS = %w[alert assert_type binary_file break call capitalize contain crit debug defined dig downcase each emerg
                   empty epp err fail file filter find_file flatten fqdn_rand get getvar include info inline_epp
                   inline_template join json_data keys length lookup map match md5 merge new next notice reduce regsubst
                   require return reverse_each scanf sha1 sha256 shellquote slice sort split sprintf step strftime tag
                   tagged template then type unique unwrap values versioncmp warning with yaml_data].freeze
    MANIFEST = <<~'PUPPET'
      class preloaded(String $text = "a ${facts['k']}", Hash[String, Any] $hash = { 'a' => 1 }) {
        file { '/preloaded': ensure => file, content => inline_epp('<%= $x %>', { 'x' => $text }), mode => '0644' }
        -> package { 'preloaded': ensure => installed }
        ~> service { 'preloaded': ensure => running, enable => true }
        $hash.each |$k, $v| { notify { "preloaded ${k}": message => $v.map |$i| { $i } } }
        if $facts['k'] =~ /k/ { exec { '/bin/true': refreshonly => true } } else { fail('no') }
      }
      class { 'preloaded': }
    PUPPET

    module_function

    def run
      Puppet::Util::Log.close_all
      TYPES.each { |type| Puppet::Type.type(type) }
      environment = Puppet::Node::Environment.create(:preload, [])
      environments = Puppet::Environments::Static.new(environment)
      Puppet.override(environments: environments, current_environment: environment) do
        Puppet[:code] = MANIFEST
        node = Puppet::Node.new('preload', environment: environment)
        node.fact_merge(Puppet::Node::Facts.new('preload', { 'k' => 'k' }))
        node.trusted_data = {}
        catalog = Puppet::Parser::Compiler.compile(node)
        catalog.filter(&:virtual?).to_data_hash
        loader = Puppet::Pops::Loaders.static_loader
        FUNCTIONS.each { |name| loader.load(:function, name) }
      end
    ensure
      Puppet[:code] = ''
      Puppet::Util::Log.clear_deduplicated if Puppet::Util::Log.respond_to?(:clear_deduplicated)
      Puppet::Type.clear_misses
      # Nobody listened: these would be said by the first compile that does.
      Puppet::Util::Log.instance_variable_get(:@queued).clear
    end
  end
end
