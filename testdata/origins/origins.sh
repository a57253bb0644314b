#!/usr/bin/env bash
# origins.sh fetch [APPLICATION...] brings the libraries of the applications in
# this directory, all or those named, from PyPI, Maven and npm: what
# requirements.txt and pom.xml name into APPLICATION/target, what
# package-lock.json names into APPLICATION/node_modules. What is there already is
# not fetched again.
#
# Exit code 3 says that some cannot be had on this machine.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

say() { echo "origins.sh: $*" >&2; }

# fetch APPLICATION. The list of what was fetched is copied last, so that a
# fetch that was cut off is done again.
fetch() {
  local app=$1 list into
  if [[ -e $app/requirements.txt ]]; then
    list=$app/requirements.txt into=$app/target
  elif [[ -e $app/pom.xml ]]; then
    list=$app/pom.xml into=$app/target
  elif [[ -e $app/package-lock.json ]]; then
    list=$app/package-lock.json into=$app/node_modules
  else
    say "no application called $app"
    return 1
  fi
  if cmp -s "$list" "$into/fetched"; then return 0; fi
  say "fetching the libraries of $app"
  rm -rf "$into"
  if [[ $list == *.txt ]]; then
    python3 -m pip install --quiet --root-user-action=ignore --no-deps --target "$into" -r "$list" >&2
  elif [[ $list == *.xml ]]; then
    mvn -B -q -Dstyle.color=never -f "$list" dependency:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$PWD/$into" >&2
  else
    (cd "$app" && npm ci --silent --no-audit --no-fund >&2)
  fi || {
    say "the libraries of $app could not be fetched"
    return 3
  }
  cp "$list" "$into/fetched"
}

if [[ ${1:-} != fetch ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' origins.sh >&2
  exit 1
fi
shift
if [[ $# == 0 ]]; then set -- */; fi

# Test packages run at the same time, and the first of them fetches.
exec 9>.lock
if command -v flock >/dev/null; then flock 9; fi
status=0
for app; do fetch "${app%/}" || status=$?; done
exit $status
