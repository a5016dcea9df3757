# frozen_string_literal: true

# What real Puppet makes of a directory environment: its modulepath, its modules, and what plugin sync would send.
# Arguments: the environmentpath, the environment's name, the basemodulepath. Prints JSON.
require 'json'
require 'puppet'
require 'puppet/file_serving/metadata'

environmentpath, name, basemodulepath = ARGV
Puppet.initialize_settings(
  ['--environmentpath', environmentpath, '--basemodulepath', basemodulepath, '--environment', name,
   '--vardir', '/nonexistent/var', '--confdir', '/nonexistent/conf', '--log_level', 'err']
)
environment = Puppet.lookup(:environments).get!(name)
sent = lambda do |mount, ignore|
  found = Puppet::FileServing::Metadata.indirection.search(
    mount, environment: environment, recurse: true, links: :follow, checksum_type: :sha256, source_permissions: :ignore,
           ignore: %w[.svn CVS .git .hg] + ignore
  )
  (found || []).select { |file| file.ftype == 'file' }.to_h { |file| [file.relative_path, file.checksum.sub('{sha256}', '')] }
end
Puppet.override(current_environment: environment) do
  puts JSON.generate(
    modulepath: environment.modulepath,
    modules: environment.modules.to_h { |mod| [mod.name, mod.path] },
    lib: sent.call('plugins', []),
    'facts.d': sent.call('pluginfacts', []),
    locales: sent.call('locales', %w[*.pot config.yaml])
  )
end
