# frozen_string_literal: true

# A stock Puppet's static catalog: what `puppetserver` answers an agent that asks for one. Prints metadata and
# recursive_metadata as JSON. Arguments: certname, environmentpath, basemodulepath, facts file, a directory of its own.

require 'json'
require 'puppet'

certname, environmentpath, basemodulepath, facts, home = ARGV
Puppet.settings.preferred_run_mode = :server
Puppet.initialize_settings(
  ['--confdir', "#{home}/conf", '--vardir', "#{home}/var", '--certname', 'callboard',
   '--environmentpath', environmentpath, '--basemodulepath', basemodulepath],
)
Puppet::Resource::Catalog.indirection.terminus_class = :compiler
Puppet::FileServing::Metadata.indirection.terminus_class = :file_server
Puppet::Node.indirection.terminus_class = :plain
Puppet::Node::Facts.indirection.terminus_class = :memory

environment = Puppet.lookup(:environments).get!(:production)
Puppet.override(current_environment: environment) do
  catalog = Puppet::Resource::Catalog.indirection.find(
    certname,
    environment: environment, static_catalog: true, code_id: 'stock', checksum_type: 'sha256', facts_format: 'application/json',
    facts: Puppet::Node::Facts.new(certname, JSON.parse(File.read(facts))),
  )
  data = catalog.to_data_hash
  puts "\n#{JSON.generate('metadata' => data['metadata'], 'recursive_metadata' => data['recursive_metadata'])}"
end
