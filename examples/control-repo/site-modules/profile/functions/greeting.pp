# How a machine introduces itself.
function profile::greeting(String $name) >> String {
  "Ahoy from ${capitalize($name)}!"
}
