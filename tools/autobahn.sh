#!/bin/sh
# autobahn.sh runs Autobahn's test suite for WebSocket servers on bin/spillway: on
# WebSockets over HTTP, and on proxied ones. The suite is for Python 2.7 with pip, and
# for no other; PYTHON2 names one. Debian has none any more, so that CI cannot run
# this: there gateway/conformance_test.go covers the same ground. It fails when a case
# fails, or when a connection does not end as it should. Reports go to
# bin/autobahn/report.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON2:-python2.7}
dir=$PWD/bin/autobahn
suite=$dir/suite

if [ ! -d "$suite/autobahntestsuite" ]; then
  "$python" -m pip install --quiet --disable-pip-version-check --target "$suite" autobahntestsuite==25.10.1
  touch "$suite/zope/__init__.py" # a namespace, which Python 2 finds in packages alone
fi

pids=
trap 'kill $pids 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

# gateway NAME ROUTES starts one, and sets address to where it listens.
gateway() {
  HTTP_ADDR=127.0.0.1:0 CONTROL_ADDR='' OPS_ADDR=127.0.0.1:0 LOG_FORMAT=json SIG_KEY=autobahn MAX_HEADER_BYTES=64KiB ROUTES="$2" \
    bin/spillway gateway >"$dir/$1.log" 2>&1 &
  pids="$pids $!"
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    address=$(sed -n 's/.*"msg":"listening".*"http":"\([^"]*\)".*/\1/p' "$dir/$1.log")
    if [ -n "$address" ]; then return; fi
    sleep 0.3
  done
  cat "$dir/$1.log" >&2
  exit 1
}
gateway over_http '* test'
over_http=$address
gateway proxied "* $over_http"

# Section 9 is about megabytes, and 12 and 13 about compression, which nobody
# offers here.
rm -rf "$dir/report"
cat >"$dir/spec.json" <<END
{"outdir": "$dir/report", "servers": [
  {"agent": "over_http", "url": "ws://$over_http/"},
  {"agent": "proxied", "url": "ws://$address/"}
], "cases": ["*"], "exclude-cases": ["9.*", "12.*", "13.*"], "exclude-agent-cases": {}}
END
PYTHONPATH=$suite "$python" -m autobahntestsuite.wstest -m fuzzingclient -s "$dir/spec.json" >"$dir/wstest.log" 2>&1 ||
  { cat "$dir/wstest.log" >&2; exit 1; }

# NON-STRICT: what was said before a mistake is not answered any more, since the
# answer comes from the origin.
"$python" - "$dir/report/index.json" <<'END'
import json, sys
good = ("OK", "NON-STRICT", "INFORMATIONAL")
bad = 0
for agent, cases in sorted(json.load(open(sys.argv[1])).items()):
    for case, result in sorted(cases.items()):
        if result["behavior"] not in good or result["behaviorClose"] not in good:
            print("%s %s: %s, close %s" % (agent, case, result["behavior"], result["behaviorClose"]))
            bad += 1
    print("%s: %d cases" % (agent, len(cases)))
sys.exit(bad > 0)
END
