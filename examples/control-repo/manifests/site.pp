# Every node has one role, and Hiera knows which.
node default {
  include "role::${lookup('role', String)}"
}
