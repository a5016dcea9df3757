# The board: a page, its style and its pictures.
#
# @param heading
#   What stands above it.
# @param departures
#   Which ferry leaves when, for where.
class profile::board (
  String                    $heading,
  Array[Profile::Departure] $departures,
) {
  include profile
  include profile::base

  $www = "${profile::root}/www"

  file { $www:
    ensure => directory,
    mode   => '0755',
  }

  # An ERB template; it sees the variables of this class.
  file { "${www}/index.html":
    ensure  => file,
    mode    => '0644',
    content => template('profile/index.html.erb'),
  }

  # One file of the module.
  file { "${www}/board.css":
    ensure => file,
    mode   => '0644',
    source => 'puppet:///modules/profile/board.css',
  }

  # A whole directory of the module; what is not in it does not stay.
  file { "${www}/pictures":
    ensure  => directory,
    source  => 'puppet:///modules/profile/pictures',
    recurse => true,
    purge   => true,
    force   => true,
  }

  # The same departures for programs.
  file { "${www}/departures.json":
    ensure  => file,
    mode    => '0644',
    content => to_json_pretty($departures),
  }

  $departures.each |Profile::Departure $departure| {
    concat::fragment { "notices: ${profile::slug("${departure['ferry']} ${departure['at']}")}":
      target  => "${profile::root}/notices.txt",
      content => "- ${departure['at']} ${departure['ferry']} to ${departure['to']}\n",
      order   => "10-${profile::slug($departure['at'])}",
    }
  }
}
