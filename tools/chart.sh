#!/bin/sh
# chart.sh lints the chart, runs its tests, and validates what it renders with
# the values of ci/ against the schemas of the oldest and the newest Kubernetes
# that kubectl-validate knows and the chart supports.
set -eu
cd "$(dirname "$0")/.."
chart=charts/spillway
out=bin/chart
rm -rf "$out"
mkdir -p "$out/crds"

# Objects that are not part of Kubernetes bring their own schemas. These modules
# are only read, never compiled; Go checks their sums against its database.
crd() { # MODULE@VERSION FILE
  dir=$(GOFLAGS='' go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
  [ -n "$dir" ] || { echo "$1 was not to be had" >&2; exit 1; }
  install -m 644 "$dir/$2" "$out/crds/"
}
crd sigs.k8s.io/gateway-api@v1.5.0 config/crd/standard/gateway.networking.k8s.io_httproutes.yaml
crd github.com/prometheus-operator/prometheus-operator@v0.85.0 \
  example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml

bin/helm-unittest --strict "$chart"
bin/helm lint --strict "$chart"
for values in "$chart"/ci/*.yaml; do
  name=$(basename "$values" .yaml)
  bin/helm lint --strict --quiet "$chart" --values "$values"
  bin/helm template live "$chart" --namespace web --values "$values" >"$out/$name.yaml"
  for version in 1.27 1.30; do
    echo "Kubernetes $version: $name"
    bin/kubectl-validate --version "$version" --local-crds "$out/crds" "$out/$name.yaml"
  done
done

# A validator that lets everything pass would look just the same.
sed 's/enableServiceLinks:/enableServiceLink:/' "$out/minimal.yaml" >"$out/wrong.yaml"
if bin/kubectl-validate --version 1.30 "$out/wrong.yaml" >"$out/wrong.log" 2>&1; then
  echo "kubectl-validate takes a field that does not exist" >&2
  exit 1
fi
grep -q enableServiceLink "$out/wrong.log"
