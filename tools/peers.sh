#!/bin/sh
# peers.sh [PACKAGES] installs the servers that we compare ourselves with, as
# Debian has them: Nchan (a module of nginx) and Pushpin, or only these packages.
# It needs apt and root. What they would start by themselves is not started.
set -eu
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "peers.sh: needs apt and root" >&2
  exit 1
fi
if [ $# = 0 ]; then set -- nginx libnginx-mod-nchan pushpin condure zurl; fi
# Package scripts ask this file whether a service may start: 101 is no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
apt-get update -qq || true # an old list may still do
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
dpkg-query -W "$@"
