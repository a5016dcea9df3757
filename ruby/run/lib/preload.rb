# Everything a run needs of Puppet itself, loaded once, before the first fork. No settings are initialised and no module's code
# is loaded here: both differ from run to run. What is missing from this list costs each run its loading again.

require 'puppet'
require 'puppet/util/command_line'
require 'puppet/application/agent'
require 'puppet/configurer'
require 'puppet/agent'
require 'puppet/transaction'
require 'puppet/transaction/report'
require 'puppet/parser'
require 'puppet/pops'
require 'puppet/ssl'
require 'puppet/http'
require 'puppet/file_bucket/dipper'
require 'puppet/indirector/catalog/rest'
require 'puppet/indirector/catalog/json'
require 'puppet/indirector/facts/facter'
require 'puppet/indirector/report/yaml'
require 'puppet/util/checksums'
require 'puppet/gettext/stubs' # each run turns translations off, as Puppet does by default
require 'puppet/parser/e4_parser_adapter'
require 'digest'
require 'facter'

# Puppet's own types, and the providers of the ones that most catalogs have. A type that cannot be loaded on this platform is
# left to the run that wants it.
module Preload
  LIBRARY = $LOAD_PATH.find { |dir| File.file?(File.join(dir, 'puppet', 'type.rb')) }

  # Files that change when Puppet, Facter or Ruby itself is upgraded.
  def self.stamped
    [File.join(LIBRARY, 'puppet', 'version.rb'), $LOADED_FEATURES.find { |path| path.end_with?('/facter/version.rb') },
     RbConfig.ruby].compact
  end

  # What Ruby and the JSON library load only at their first use.
  Digest::SHA256.hexdigest('')
  Puppet::Util::Json.load('{}')
  %w[UTF-16LE UTF-16BE].each { |name| ''.encode(name) }

  def self.files(pattern)
    Dir.glob(pattern, base: LIBRARY).sort.map { |file| file.delete_suffix('.rb') }
  end

  (files('puppet/type/*.rb') + files('puppet/type/file/*.rb') + files('puppet/feature/*.rb')).each do |file|
    require file
  rescue LoadError, StandardError => e
    warn "#{file} is not preloaded: #{e.message}"
  end
end
