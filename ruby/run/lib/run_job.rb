# One run: real Puppet applies one catalog file, from this disk alone, and each outcome is an event the moment it is known.
#
# Puppet's own Agent and Configurer do the work (locks, `runtimeout`, deferred values, conversion, transaction, state.yaml,
# transactionstore.yaml, last_run_summary.yaml). Three things are ours: where the catalog and the facts come from (files), where
# file contents come from (LocalContent), and where the report goes (EventFile). See PROTOCOL.md for what was tried instead.

require 'json'
require_relative 'local_content'
require_relative 'stored_facts'

class RunJob
  class << self
    attr_accessor :catalog, :facts, :duration, :report, :events
  end

  def initialize(job)
    @job = job
    @id = job.fetch('id')
  end

  def work(messages, lifeline)
    @messages = messages
    # A daemon that finds this run without an end looks here for who may still be writing.
    File.write("#{@job.fetch('events')}.pid", Process.pid.to_s)
    events = EventFile.new(@job.fetch('events'), @job.fetch('sequence'), @job.fetch('events_bytes_max')) do |size|
      hint(size)
    end
    RunJob.events = events
    watch(lifeline)
    exit_code = nil
    error = nil
    begin
      exit_code = apply
    rescue Exception => e # rubocop:disable Lint/RescueException -- a module may raise or exit in any way; it is told and the run ends
      error = "#{e.message} (#{e.class})".scrub
      warn "#{error}\n#{e.backtrace&.first(10)&.join("\n")}"
    end
    finish(events, exit_code, error)
    exit!(0)
  end

  private

  def apply
    PuppetSettings.start(@job)
    Puppet::Util::Log.newdesttype(:callboard) do
      def handle(message)
        RunJob.events.append('log', message.to_data_hash, weighty: %i[warning err alert emerg crit].include?(message.level))
      end
    end
    Puppet::Util::Log.newdestination(:callboard)
    LocalContent.from(@job.fetch('content'))
    Puppet.runtime[:facter] = StoredFacts.new(@job.fetch('facts'))
    Facter.search(File.join(Puppet[:libdir], 'facter'))
    Facter.search_external([Puppet[:pluginfactdest]]) if File.directory?(Puppet[:pluginfactdest])
    RunJob.facts = Puppet::Node::Facts.new(Puppet[:certname], Puppet.runtime[:facter].values)
    RunJob.duration = Puppet::Util.thinmark { RunJob.catalog = read_catalog }
    Puppet::Transaction.prepend(EachResource)
    Agent.new(Client, false).run(transaction_uuid: @id, start_time: Time.now, splay: false, pluginsync: false)
  end

  def read_catalog
    text = File.read(@job.fetch('catalog'), encoding: Encoding::UTF_8)
    catalog = Puppet::Resource::Catalog.convert_from('rich_data_json', text)
    raise Puppet::Error, "The catalog is of '#{catalog.name}', and this node is '#{Puppet[:certname]}'" unless catalog.name == Puppet[:certname]

    catalog
  end

  def finish(events, exit_code, error)
    report = RunJob.report
    data = report ? summary(report) : {}
    # A resource whose outcome became known only afterwards (a cycle, a missing provider, a refresh that failed) is told again.
    late(report).each { |status| events.append('resource', status, weighty: true) } if report
    reason = error || (@interrupted if @interrupted) || failure(report, exit_code)
    data['status'] = 'failed' if reason
    data['exit_code'] = exit_code || 1
    data['reason'] = reason if reason
    data['interrupted'] = true if @interrupted
    data['events_dropped'] = events.dropped if events.dropped.positive?
    data['content_lacking'] = LocalContent.lacking unless LocalContent.lacking.to_a.empty?
    events.append('end', data, weighty: true)
    resources = data.dig('metrics', 'resources', 'values')&.to_h { |name, _label, value| [name, value] }
    say('ended' => data.slice('status', 'exit_code', 'reason', 'noop', 'noop_pending', 'content_lacking')
                       .merge('resources' => resources, 'seconds' => time_total(data)))
  end

  def failure(report, exit_code)
    return nil if exit_code

    RunJob.last_error || (report ? 'Puppet could not apply the catalog' : 'Puppet did not start the run: see the log')
  end

  def time_total(data)
    data.dig('metrics', 'time', 'values')&.find { |name,| name == 'total' }&.last
  end

  # The report as Puppet would send it, without what has been told event by event.
  def summary(report)
    bare = report.dup
    bare.instance_variable_set(:@logs, [])
    bare.instance_variable_set(:@resource_statuses, {})
    bare.to_data_hash.reject { |key,| %w[logs resource_statuses].include?(key) }
  end

  def late(report)
    report.resource_statuses.values.reject do |status|
      status.resource_type == 'Whit' || EachResource.told[status.resource] == EachResource.outcome(status)
    end.map(&:to_data_hash)
  end

  # Hints may be lost: a daemon that does not read must never hold up a transaction.
  def hint(size)
    @messages.write_nonblock("#{JSON.generate('id' => @id, 'appended' => size)}\n", exception: false)
  rescue SystemCallError
    nil
  end

  def say(message)
    @messages.write("#{JSON.generate(message.merge('id' => @id))}\n")
  rescue SystemCallError
    nil
  end

  # Puppet ends a transaction after the resource it is working on, and skips the rest.
  def watch(lifeline)
    trap('TERM') { interrupt('The run was stopped') }
    Thread.new do
      lifeline.read(1)
      interrupt('The node daemon was gone, and the run stopped')
    end
  end

  def interrupt(reason)
    @interrupted ||= reason
    Puppet::Application.stop!
  end

  def self.last_error
    report&.logs&.reverse&.find { |log| %i[err alert emerg crit].include?(log.level) }&.message
  end

  # Certificates are the daemon's business; a run needs none.
  class Agent < Puppet::Agent
    private

    def wait_for_certificates(_options)
      nil
    end
  end

  class Client < Puppet::Configurer
    # Called because `use_cached_catalog` is set. Never nil: Puppet would then go and ask a server.
    def prepare_and_retrieve_catalog_from_cache(_options = {})
      @duration = RunJob.duration
      RunJob.catalog
    end

    def get_facts(_options)
      [{}, RunJob.facts]
    end

    def send_report(report)
      save_last_run_summary(report)
      RunJob.report = report
    end
  end

  # After each resource, with everything that its evaluation brought: changes, a skip, refreshes.
  module EachResource
    class << self
      # What was told of each resource last, by its reference.
      def told
        @told ||= {}
      end

      def outcome(status)
        [status.events.size, status.failed, status.failed_to_restart?, status.changed, status.out_of_sync, status.skipped]
      end
    end

    private

    def eval_resource(resource, ancestor = nil)
      super
    ensure
      if catalog.host_config? && resource.type != :whit
        status = resource_status(resource)
        EachResource.told[status.resource] = EachResource.outcome(status)
        weighty = status.changed || status.failed || status.failed_to_restart? || status.events.any?
        RunJob.events.append('resource', status.to_data_hash, weighty: weighty)
      end
    end
  end
end
