#!/bin/sh
# peers.sh installs the servers that the load generator compares with: Nchan (a
# module of nginx) and Pushpin, as Debian has them. It needs apt and root. What
# the packages would start by themselves is not started.
set -eu
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "peers.sh: needs apt and root" >&2
  exit 1
fi
# Package scripts ask this file whether a service may start: 101 is no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
apt-get update -qq || true # an old list may still do
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx libnginx-mod-nchan pushpin condure zurl
dpkg-query -W nginx libnginx-mod-nchan pushpin condure zurl
