# A machine that shows the board.
class role::board {
  include profile::base
  include profile::board
  include profile::app
}
