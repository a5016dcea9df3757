# One collection of facts, as `puppet agent` makes them: Facter's, custom and external ones of the plugin tree, and Puppet's own
# (clientcert, clientversion, clientnoop). The values are written to the job's `output` as one JSON object.

require 'json'

class FactsJob
  def initialize(job)
    @job = job
  end

  def work(messages, _lifeline)
    trap('TERM', 'DEFAULT')
    PuppetSettings.start(@job)
    said = log_once
    Puppet::Node::Facts.indirection.terminus_class = :facter
    facts = Puppet::Node::Facts.indirection.find(Puppet[:certname], environment: Puppet.lookup(:current_environment))
    text = render(facts.values)
    said.each { |message, times| warn "facts: #{message}#{" (#{times} times)" if times > 1}" }
    output = @job.fetch('output')
    File.open("#{output}.part", File::WRONLY | File::CREAT | File::TRUNC, 0o600) { |file| file.write(text) }
    File.rename("#{output}.part", output)
    messages.write("#{JSON.generate(id: @job['id'], collected: { bytes: text.bytesize, count: facts.values.size })}\n")
    exit!(0)
  rescue Exception => e # rubocop:disable Lint/RescueException -- a custom fact may raise or exit in any way
    warn "Could not collect facts: #{e.message} (#{e.class}) #{e.backtrace&.first}"
    messages.write("#{JSON.generate(id: @job['id'], failed: "#{e.message} (#{e.class})".scrub[0, 2000])}\n")
    exit!(1)
  end

  private

  # Facter says the same thing again for each fact that it concerns.
  def log_once
    said = Hash.new(0)
    Puppet::Util::Log.newdesttype(:callboard_once) do
      define_method(:handle) { |message| said["#{message.level}: #{message.message.to_s.lines.first.to_s.chomp}"] += 1 }
    end
    Puppet::Util::Log.newdestination(:callboard_once)
    said
  end

  def render(values)
    JSON.generate(values)
  rescue JSON::GeneratorError, EncodingError
    JSON.generate(plain(values))
  end

  # A value that is not UTF-8 or not finite cannot be JSON. It is kept as near as can be, rather than losing all facts for one.
  def plain(value)
    case value
    when Hash then value.to_h { |key, inner| [plain(key.to_s), plain(inner)] }
    when Array then value.map { |inner| plain(inner) }
    when Float then value.finite? ? value : value.to_s
    when String then value.dup.force_encoding(Encoding::UTF_8).scrub
    else value
    end
  end
end
