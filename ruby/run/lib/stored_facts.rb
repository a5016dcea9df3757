# The facts that the daemon collected last, in place of a Facter run. Providers and deferred functions that ask for a fact get
# the stored one; a fact that is not stored is asked of Facter, which then resolves that one alone.

require 'json'

class StoredFacts < Puppet::FacterImpl
  attr_reader :values

  def initialize(path)
    super()
    @values = JSON.parse(File.read(path, encoding: Encoding::UTF_8))
  end

  def value(name)
    key = name.to_s.downcase
    return @values[key] if @values.key?(key)

    found = key.split('.').reduce(@values) do |value, part|
      case value
      when Hash then value[part]
      when Array then part.match?(/\A\d+\z/) ? value[part.to_i] : nil
      end
    end
    found.nil? ? super : found
  end
end
