# The application that shows the board. It only pretends: where a real one would be restarted, a line is written.
#
# @param settings
#   Sections of its configuration file, each a hash of settings.
# @param token
#   What it shows to be let in. Never printed.
class profile::app (
  Hash[String, Hash[String, Scalar]] $settings,
  Sensitive[String]                  $token,
) {
  include profile

  $etc = "${profile::root}/etc"

  file { $etc:
    ensure => directory,
    mode   => '0755',
  }

  # One resource a setting: whatever else is in the file stays.
  $settings.each |String $section, Hash $values| {
    $values.each |String $setting, Scalar $value| {
      ini_setting { "board.ini: ${section}/${setting}":
        ensure  => present,
        path    => "${etc}/board.ini",
        section => $section,
        setting => $setting,
        value   => String($value),
        require => File[$etc],
        notify  => Exec['restart the board'],
      }
    }
  }

  file { "${etc}/token":
    ensure  => file,
    mode    => '0600',
    content => $token,
    notify  => Exec['restart the board'],
  }

  exec { 'restart the board':
    command     => "/bin/sh -c 'date --utc +%FT%TZ >> ${profile::root}/restarts.log'",
    refreshonly => true,
  }
}
