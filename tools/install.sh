#!/bin/sh
# Installs what the repository needs on Debian 12: npm packages (Node.js 24 among them) and Debian packages.
# Says what it installs, and does nothing where everything is there already.
#   tools/install.sh demo   what `make demo` needs
#   tools/install.sh test   that, and what the tests and benches need
set -eu
cd "$(dirname "$0")/.."
for_what=${1:-demo}

packages="git ca-certificates puppet-agent facter
  puppet-module-puppetlabs-stdlib puppet-module-puppetlabs-concat puppet-module-puppetlabs-inifile"
if [ "$for_what" = test ]; then
  packages="$packages r10k g10k curl openssl nginx-light strace hiera-eyaml
    puppet-module-puppetlabs-apache puppet-module-puppetlabs-mysql puppet-module-puppetlabs-ntp
    puppet-module-saz-ssh puppet-module-saz-rsyslog puppet-module-keystone"
fi

missing=""
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  as_root=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "These Debian packages are missing, and there is no root or sudo to install them:$missing" >&2; exit 1; }
    as_root=sudo
  fi
  echo "== Installing Debian packages:$missing"
  log=$(mktemp)
  $as_root apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
  # Packages that bring a service must not start it here: policy-rc.d says no while we install.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
  fi
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$log" 2>&1 || { tail -30 "$log" >&2; exit 1; }
  rm -f "$log"
fi

stamp=node_modules/.callboard-lock
if ! cmp -s package-lock.json "$stamp" 2>/dev/null || [ ! -x node_modules/node/bin/node ]; then
  echo "== Installing npm packages (Node.js 24, PostgreSQL 18 and libraries; some 400 MB)"
  npm ci --no-audit --no-fund --loglevel=error
  cp package-lock.json "$stamp"
fi
echo "== Everything is installed"
