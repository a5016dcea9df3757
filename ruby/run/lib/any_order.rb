# JSON objects have no order, and catalogs of ours have their keys sorted. Puppet however fills an object's attributes (a Deferred's
# name and arguments) by their position in the JSON. Here they are put in the order of the type first.

require 'puppet/pops'

module AnyOrder
  private

  def pcore_type_hash_to_value(type, value)
    super(type, AnyOrder.arrange(type, value))
  end

  def self.arrange(type, value)
    return value unless value.is_a?(Hash) && value.size > 1 && type.respond_to?(:parameter_info)

    names = type.parameter_info(type.implementation_class).first.map(&:to_s)
    value.sort_by { |key, _| names.index(key) || names.size }.to_h
  end

  Puppet::Pops::Serialization::FromDataConverter.prepend(self)
end
