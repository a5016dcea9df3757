# frozen_string_literal: true

# The shells that people may log in with, as /etc/shells lists them.
Facter.add(:login_shells) do
  confine kernel: 'Linux'
  setcode do
    File.exist?('/etc/shells') ? File.readlines('/etc/shells', chomp: true).grep(%r{\A/}).sort : []
  end
end
