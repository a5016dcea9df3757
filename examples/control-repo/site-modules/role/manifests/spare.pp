# A machine that waits for something to do.
class role::spare {
  include profile::base

  notify { 'spare':
    message => "${trusted['certname']} has nothing to do. Give it a role in data/nodes/${trusted['certname']}.yaml",
  }
}
