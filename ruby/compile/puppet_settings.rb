# frozen_string_literal: true

require 'puppet'

module Callboard
  # Puppet, set up as a compiling server that knows nothing of this machine's puppet.conf, global hiera.yaml or ssl
  # directory. The directories are fixed names, because `$settings::vardir` and its like may end in a catalog and must
  # read the same on every machine; nothing is ever written there.
  module PuppetSettings
    CONFDIR = '/etc/callboard/puppet'
    VARDIR = '/var/lib/callboard/puppet'

    module_function

    # `extra`: further Puppet settings by name, as a site sets them for its compilers (strict_variables …).
    def load(certname:, fileserver_config: nil, extra: {})
      settings = {
        'config' => '/dev/null',
        'confdir' => CONFDIR,
        'vardir' => VARDIR,
        'codedir' => "#{VARDIR}/code",
        'environmentpath' => "#{VARDIR}/code/environments",
        'basemodulepath' => "#{VARDIR}/code/modules",
        'hiera_config' => "#{CONFDIR}/hiera.yaml",
        'fileserverconfig' => fileserver_config || "#{CONFDIR}/fileserver.conf",
        'certname' => certname,
        # The default; only where it is said are translations not looked for.
        'disable_i18n' => true,
      }.merge(extra)
      Puppet.settings.preferred_run_mode = :server
      arguments = settings.flat_map { |name, value| flag(name, value) }
      if Puppet.respond_to?(:initialize_settings)
        Puppet.send(:do_initialize_settings_for_run_mode, :server, arguments, false, true, {})
      end
      Puppet[:default_file_terminus] = :file_server
      Puppet::FileServing::Metadata.indirection.terminus_class = :file_server
      Puppet::FileServing::Content.indirection.terminus_class = :file_server
      Puppet::Util::Log.level = :notice
    end

    # Switches (`--no-x`) for true and false, since Puppet's parser takes no value for those.
    def flag(name, value)
      case value.to_s
      when 'true' then ["--#{name}"]
      when 'false' then ["--no-#{name}"]
      else ["--#{name}", value.to_s]
      end
    end
  end
end
