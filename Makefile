# Bare "make" lists what there is. Go, git and make are enough to begin; targets
# that need more say so, or bring it.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# What Go itself knows when no tag tells: see spillway version.
VERSION   ?= $(shell git describe --tags --dirty 2>/dev/null)
LDFLAGS   := -s -w -X main.version=$(VERSION)
PACKAGES  ?= ./...
# More for go test, such as TESTFLAGS="-run TestResume -v".
TESTFLAGS ?=
FUZZTIME  ?= 5s
BENCH     ?= .
COUNT     ?= 1
# Options and scenarios of spillway-load (bin/spillway-load --help); empty: none.
# With all scenarios, LOAD=-all, it takes most of an hour.
LOAD      ?= -pairs 9
# How long make model lasts.
MODEL     ?= 10m

# Tools of development, built from modules of their own into bin/.
TOOLS := helm helm-docs helm-unittest benchstat kubectl-validate golangci-lint apidiff govulncheck
TOOL_apidiff          := apidiff .
TOOL_golangci-lint    := golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
TOOL_govulncheck      := govulncheck golang.org/x/vuln/cmd/govulncheck
TOOL_kubectl-validate := kubectl-validate sigs.k8s.io/kubectl-validate
TOOL_helm             := . helm.sh/helm/v4/cmd/helm
TOOL_helm-unittest    := . github.com/helm-unittest/helm-unittest/cmd/helm-unittest
TOOL_helm-docs        := . github.com/norwoodj/helm-docs/cmd/helm-docs
TOOL_benchstat        := . golang.org/x/perf/cmd/benchstat

.PHONY: help
help: ## this list
	@echo 'make TARGET, with one of:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

.PHONY: build
build: ## bin/spillway: one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/spillway ./cmd/spillway

.PHONY: run
run: build ## the demo: an embedded Kafka with sample topics, live at localhost:7999
	bin/spillway demo

.PHONY: test
test: ## every test, also on real Kafka, Chromium and the image; brings what it needs
	@tools/test.sh $(TESTFLAGS)

.PHONY: unit
unit: ## the tests that need nothing but Go, fast
	go test $(TESTFLAGS) $(PACKAGES)

.PHONY: race
race: ## the same under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race $(TESTFLAGS) $(PACKAGES)

.PHONY: model
model: ## random things to topics and servers for MODEL (10m), checked record by record
	SPILLWAY_E2E=full SPILLWAY_MODEL=$(MODEL) go test -count=1 -timeout 0 -v -run '^TestModel$$' ./cmd/spillway

.PHONY: fuzz
fuzz: ## each fuzz test for FUZZTIME (5s)
	@git ls-files -co --exclude-standard '*_test.go' | xargs grep -o '^func Fuzz[A-Za-z0-9_]*' /dev/null | sed 's/:func / /' | \
	while read -r file name; do \
		echo "== $$name in $$(dirname $$file)"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "./$$(dirname $$file)" </dev/null || exit 1; \
	done

# Debian's Pushpin, with all its parts.
.PHONY: pushpin
pushpin:
	@for part in pushpin condure zurl; do command -v $$part >/dev/null || exec tools/peers.sh pushpin condure zurl; done

.PHONY: grip-record
grip-record: pushpin ## ask a real Pushpin 1.36, installed by apt, again what the gateway is compared with
	go test -count=1 -run TestPushpin ./gateway/pushpintest -record

.PHONY: grip-check
grip-check: pushpin ## fail when a real Pushpin does not answer as was recorded
	go test -count=1 -run TestPushpin ./gateway/pushpintest -check

.PHONY: autobahn
autobahn: build ## Autobahn's test suite on WebSockets to HTTP origins (needs Python 2.7: PYTHON2)
	@tools/autobahn.sh

.PHONY: kafka
kafka: ## a real Kafka on localhost:9092, until Ctrl-C (with Java, or docker)
	testdata/kafka/kafka.sh start --foreground

.PHONY: bench
bench: bin/benchstat build ## benchmarks BENCH (all), COUNT (1) times; then LOAD on the binary
	@mkdir -p bin
	@# A pipe would hide that go test failed.
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout 60m $(PACKAGES) >bin/bench.txt || { cat bin/bench.txt; exit 1; }
	@grep -v -e '^PASS' -e '^ok' -e 'no test files' bin/bench.txt
	@if [ $(COUNT) -gt 1 ]; then bin/benchstat bin/bench.txt; fi
	@# Method and results are in BENCHMARKS.md.
	@if [ -z '$(LOAD)' ]; then exit 0; fi; \
	if [ "$$(go env GOOS)" != linux ]; then echo 'spillway-load needs Linux: left out'; exit 0; fi; \
	go build -o bin/spillway-load ./cmd/spillway-load && bin/spillway-load $(LOAD)

.PHONY: lint
lint: bin/golangci-lint bin/apidiff ## go vet, gofmt, golangci-lint, and what package grip promises
	go vet ./...
	@for module in tools tools/apidiff; do (cd $$module && GOFLAGS=-mod=readonly go vet ./...) || exit 1; done
	bin/apidiff $(GRIP_API) ./grip
	@unformatted=$$(gofmt -l .) || exit 1; \
	if [ -n "$$unformatted" ]; then echo "gofmt -w would change:"; echo "$$unformatted"; exit 1; fi
	bin/golangci-lint run

.PHONY: vulncheck
vulncheck: bin/govulncheck ## vulnerabilities that are known of what we use, where their database can be had
	@tools/vulncheck.sh

# What others may use of package grip: lint fails when something of it goes away.
GRIP_API := grip/testdata/api
.PHONY: grip-api
grip-api: bin/apidiff ## record the API of package grip anew, when it changes on purpose
	@mkdir -p $(dir $(GRIP_API))
	bin/apidiff -w $(GRIP_API) ./grip

.PHONY: cross
cross: ## compile for the other systems that people develop on
	@for system in linux/arm64 darwin/arm64 windows/amd64; do \
		echo "go build for $$system"; \
		CGO_ENABLED=0 GOOS=$${system%/*} GOARCH=$${system#*/} go build ./... || exit 1; \
	done

.PHONY: chart
chart: bin/helm bin/helm-unittest bin/kubectl-validate ## lint, test and validate the Helm chart, offline
	@tools/chart.sh

.PHONY: generate
generate: bin/helm-docs ## write what is generated: tables of variables, the chart's README
	go generate ./...
	@# It finds charts by itself, and says so at length.
	bin/helm-docs --chart-search-root charts --log-level warning

.PHONY: generated
generated: ## fail when make generate would change something
	@before=$$(tools/tree.sh) && $(MAKE) --no-print-directory generate && after=$$(tools/tree.sh) && \
	if [ "$$before" != "$$after" ]; then echo "what is generated was not up to date; now it is: commit it"; git status --short; exit 1; fi

.PHONY: check
check: lint cross chart generated race grip-check test ## what CI runs

.PHONY: clean
clean: ## remove what was built (Go's caches make it quick to build again)
	rm -rf bin dist coverage.*

# The compiler's cache makes this quick when only the file's date is new.
define tool
bin/$(1): tools/$(firstword $(TOOL_$(1)))/go.mod tools/$(firstword $(TOOL_$(1)))/go.sum
	@echo "building $$@"
	@mkdir -p bin
	@cd tools/$(firstword $(TOOL_$(1))) && GOFLAGS=-mod=readonly GOWORK=off go build -o $$(CURDIR)/$$@ $(lastword $(TOOL_$(1)))
	@touch $$@
endef
$(foreach t,$(TOOLS),$(eval $(call tool,$(t))))
bin/apidiff: tools/apidiff/main.go
