# Puppet's settings for one child, made from the job alone. Every directory lies under the daemon's state; the machine's own
# puppet.conf is not read, so a stock agent on the same machine and this one cannot disturb each other.

require 'fileutils'

module PuppetSettings
  # A name that cannot be resolved (RFC 6761): should anything ask for a server all the same, it fails and says why.
  NO_SERVER = 'callboard.invalid'.freeze

  # @param job [Hash] `certname`, `environment`, `directory` (private, for confdir and vardir), `plugins` (directory of a plugin
  #   tree, or nil), `noop`, `log_level`, `settings` (further Puppet settings by name; these win)
  def self.start(job)
    directory = job.fetch('directory')
    plugins = job['plugins'] || File.join(directory, 'no-plugins')
    directories = {
      confdir: File.join(directory, 'conf'), codedir: File.join(directory, 'code'), vardir: File.join(directory, 'var'),
      publicdir: File.join(directory, 'public'), rundir: File.join(directory, 'run'), logdir: File.join(directory, 'log'),
      ssldir: File.join(directory, 'ssl')
    }
    settings = directories.merge(
      basemodulepath: File.join(directory, 'code', 'modules'),
      libdir: File.join(plugins, 'lib'), plugindest: File.join(plugins, 'lib'), pluginfactdest: File.join(plugins, 'facts.d'),
      certname: job.fetch('certname'), environment: job['environment'] || 'production',
      server: NO_SERVER, ca_server: NO_SERVER, report_server: NO_SERVER,
      use_cached_catalog: true, usecacheonfailure: false, report: false, noop: job['noop'] ? true : false,
      log_level: job['log_level'] || 'notice', splay: false, daemonize: false, onetime: true
    ).merge((job['settings'] || {}).transform_keys(&:to_sym))

    prepare(directories, plugins)
    args = settings.map { |name, value| argument(name, value) }.compact
    Puppet.initialize_settings(args, false)
    Puppet.settings.initialize_app_defaults(
      directories.merge(name: 'agent', run_mode: :agent, catalog_terminus: :rest, facts_terminus: :facter, node_terminus: :rest)
    )
    Puppet::ApplicationSupport.push_application_context(Puppet::Util::RunMode[:agent], :not_required)
  end

  # The directories that `puppet agent` has Puppet make with a small catalog of their own, some 100 ms dearer.
  def self.prepare(directories, plugins)
    [directories.values, File.join(directories[:vardir], 'state'), File.join(directories[:vardir], 'client_data')].flatten.each do |path|
      FileUtils.mkdir_p(path, mode: 0o750)
    end
    # Puppet looks for translations under vardir only.
    link = File.join(directories[:vardir], 'locales')
    target = File.join(plugins, 'locales')
    return if File.symlink?(link) && File.readlink(link) == target

    FileUtils.rm_f(link)
    File.symlink(target, link) if File.directory?(target)
  end
  private_class_method :prepare

  def self.argument(name, value)
    case value
    when nil then nil
    when true then "--#{name}"
    when false then "--no-#{name}"
    else "--#{name}=#{value}"
    end
  end
  private_class_method :argument
end
