# frozen_string_literal: true

# The oracle: a stock Puppet, with nothing of the compilers' parent, caches or tracer in it. Reads a line of JSON for each
# question, {"environmentpath": PATH, "groups": [[REQUEST, …], …]}, and answers with a line {"CERTNAME": {"id": SHA256} or
# {"error": SENTENCE}, …}. Nothing is compiled in this process itself: every group is compiled in a fork of its own, two at a time,
# by one environment as a server with a cached environment would; a node that fails leaves that environment in doubt, so it is
# compiled once more, alone, and those behind it in a new environment. Requests are those of ruby/compile/PROTOCOL.md.

Encoding.default_external = Encoding::UTF_8
COMPILE = File.expand_path('../../ruby/compile', __dir__)

require 'digest'
require 'json'
require 'puppet'
require "#{COMPILE}/canonical"
require "#{COMPILE}/outcome"
require "#{COMPILE}/puppet_settings"
require "#{COMPILE}/request_node"
require "#{COMPILE}/static_metadata"

FORKS_MAX = 2
# What every catalog has; Puppet looks for what they need on this machine once.
TYPES = %i[file package service user group exec notify stage cron host mount schedule tidy resources filebucket component whit].freeze

# A code version as an environment named production below an environmentpath.
class Code
  attr_reader :directory

  def initialize(environmentpath)
    @environmentpath = environmentpath
    @directory = File.join(File.realpath(environmentpath), 'production')
  end

  def relative(text)
    text.to_s.gsub("#{@directory}/", '').gsub("#{@environmentpath}/production/", '')
  end

  # Where a server finds it; of this process from now on.
  def environments
    Puppet[:environmentpath] = File.dirname(@directory)
    Puppet[:basemodulepath] = File.join(@directory, '.callboard', 'modulepath', '0')
    Puppet::Environments::Directories.new(Puppet[:environmentpath], [Puppet[:basemodulepath]])
  end
end

def compile(request, code, environments)
  environment = Puppet.override(environments: environments) { environments.get!(:production) }
  Puppet.override(environments: environments, current_environment: environment) do
    node = Callboard::RequestNode.build(request, environment)
    catalog = Puppet::Parser::Compiler.compile(node).filter(&:virtual?)
    Callboard::StaticMetadata.new(catalog, code, node.name).inline
    Puppet.override(rich_data: environment.rich_data?) do
      data = catalog.to_data_hash
      data['resources'].each { |resource| resource['file'] = code.relative(resource['file']) if resource['file'] }
      text = Callboard::Canonical.write(data)
      File.write(File.join(ENV['ORACLE_KEEPS'], "#{node.name}.json"), text) if ENV['ORACLE_KEEPS']
      { 'id' => Digest::SHA256.hexdigest(text) }
    end
  end
rescue Exception => e # rubocop:disable Lint/RescueException
  { 'error' => Callboard::Outcome.new(code).failure(e)['message'] }
end

# Puppet keeps an environment that was asked for; each compile of a group is given the same one.
class Kept
  include Puppet::Environments::EnvironmentLoader

  def initialize(environments)
    @environments = environments
  end

  def get(name)
    (@kept ||= {})[name.to_sym] ||= @environments.get(name)
  end

  def list
    [get(:production)]
  end

  def get_conf(name)
    @environments.get_conf(name)
  end

  def search_paths
    @environments.search_paths
  end

  def clear_all; end
end

# Answers of a group until one fails; the failed one is not among them.
def compile_group(requests, code)
  environments = Kept.new(code.environments)
  answers = {}
  requests.each do |request|
    answer = compile(request, code, environments)
    break if answer.key?('error') && requests.size > 1

    answers[request.fetch('certname')] = answer
  end
  answers
end

def answer_all(groups, code)
  waiting = groups.reject(&:empty?)
  running = {}
  answers = {}
  until waiting.empty? && running.empty?
    while running.size < FORKS_MAX && waiting.any?
      group = waiting.shift
      reader, writer = IO.pipe
      pid = fork do
        reader.close
        writer.write(JSON.generate(compile_group(group, code)))
        writer.close
        exit!(0)
      end
      writer.close
      running[reader] = [pid, group]
    end
    IO.select(running.keys)[0].each do |reader|
      pid, group = running.delete(reader)
      text = reader.read
      reader.close
      Process.wait(pid)
      found = text.empty? ? {} : JSON.parse(text)
      answers.merge!(found)
      failed, *behind = group.reject { |request| found.key?(request['certname']) }
      next if failed.nil?

      if group.size > 1 then waiting.push([failed], behind).reject!(&:empty?)
      else answers[failed['certname']] = { 'error' => 'the process ended' }
      end
    end
  end
  answers
end

Callboard::PuppetSettings.load(certname: 'callboard', extra: JSON.parse(ARGV[0] || '{}'))
Puppet::Util::Log.close_all
TYPES.each { |type| Puppet::Type.type(type) }
GC.start
$stdin.each_line do |line|
  question = JSON.parse(line)
  $stdout.puts(JSON.generate(answer_all(question['groups'], Code.new(question['environmentpath']))))
  $stdout.flush
end
