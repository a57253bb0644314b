#!/bin/sh
# test.sh runs every test, and tells at the end which could not run here.
# Its arguments go to go test.
#
# What the tests need beyond Go is installed where that is possible (apt as
# root; Kafka by Maven, see testdata/kafka/kafka.sh; libraries of others by pip,
# npm and Maven, see testdata/origins/origins.sh). A test that still lacks
# something is skipped aloud; with CI=true it fails.
set -eu
cd "$(dirname "$0")/.."

# install COMMANDS PACKAGE: the package, unless one of the commands is there.
updated=
install() {
  for command in $1; do
    if command -v "$command" >/dev/null 2>&1; then return; fi
  done
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "test.sh: $2 is not here, and cannot be installed without apt and root" >&2
    return
  fi
  echo "test.sh: installing $2" >&2
  if [ -z "$updated" ]; then
    apt-get update -qq >/dev/null || true # an old list may still do
    updated=yes
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null ||
    echo "test.sh: $2 could not be installed" >&2
}
install "curl" curl
install "kcat kafkacat" kcat
install "pip3 pip" python3-pip
install "openssl" openssl
if ! command -v nginx >/dev/null 2>&1 && [ ! -x /usr/sbin/nginx ]; then tools/peers.sh nginx >&2 || true; fi # the tests say so themselves
install "npm" npm
install "chromium chromium-browser google-chrome" chromium
if [ "$(uname -s)" = Linux ]; then install "buildah" buildah; fi

# Before the tests, so that their deadlines are not spent on downloads.
kafka=0
testdata/kafka/kafka.sh fetch || kafka=$?
case $kafka in
0 | 3) ;; # 3: no Kafka here; the tests say so themselves
*) echo "test.sh: kafka.sh fetch ended with $kafka" >&2 ;;
esac
install "mvn" maven
origins=0
testdata/origins/origins.sh fetch || origins=$?
case $origins in
0 | 3) ;; # 3: some are not to be had here; the tests say so themselves
*) echo "test.sh: origins.sh fetch ended with $origins" >&2 ;;
esac

skips=$(mktemp)
trap 'rm -f "$skips"' EXIT
trap 'exit 130' INT TERM

status=0
SPILLWAY_E2E=full SPILLWAY_SKIPS=$skips go test -count=1 -timeout 20m "$@" ./... || status=$?
for module in tools tools/apidiff; do
  (cd "$module" && GOFLAGS=-mod=readonly go test -count=1 ./...) || status=$?
done

if [ -s "$skips" ]; then
  echo
  echo "Skipped, for want of something on this machine:"
  sort -u "$skips" | sed 's/^/  /'
  if [ "${CI:-}" = true ]; then
    echo "With CI=true that is a failure."
    status=1
  fi
else
  echo
  echo "No test was skipped."
fi
exit $status
