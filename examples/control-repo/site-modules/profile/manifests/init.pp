# What all profiles share: the one folder that everything lies below.
#
# @param root
#   Where it is. Hiera's word counts first, then a fact that the node was given.
class profile (
  Stdlib::Absolutepath $root = pick($facts['callboard_demo_root'], '/var/tmp/callboard-demo'),
) {
  file { $root:
    ensure => directory,
    mode   => '0755',
  }
}
