# What every machine has: a greeting, and a page of notices that other profiles add to.
#
# @param contact
#   Whom to call.
# @param family_note
#   A sentence about the kind of machine.
class profile::base (
  String           $contact,
  Optional[String] $family_note = undef,
) {
  include profile

  # An EPP template.
  file { "${profile::root}/motd":
    ensure  => file,
    mode    => '0644',
    content => epp('profile/motd.epp', {
      greeting    => profile::greeting($facts['networking']['hostname']),
      contact     => $contact,
      family_note => $family_note,
      shells      => pick($facts['login_shells'], []),
    }),
  }

  # Built of fragments: this one, and whatever other profiles have to say.
  concat { "${profile::root}/notices.txt":
    ensure => present,
    mode   => '0644',
  }
  concat::fragment { 'notices: heading':
    target  => "${profile::root}/notices.txt",
    content => "Notices of ${facts['networking']['hostname']}\n",
    order   => '00',
  }
}
