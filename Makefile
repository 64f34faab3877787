# The two commands of the README need only Go; this file is for those who work
# on napitune. "make help" lists the targets.

GO            ?= go
NFPM          ?= github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
GOLANGCI      ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2
FUZZTIME      ?= 20s
BENCH         ?= .
SLOW          ?= --slow
export CGO_ENABLED = 0

.DEFAULT_GOAL := build

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/napitune, one static binary without the Markdown converter
	$(GO) build -trimpath -ldflags "-s -w" -tags urfave_cli_no_docs -o bin/napitune ./cmd/napitune

.PHONY: run
run: build ## build and advise for this machine
	bin/napitune

.PHONY: test
test: ## vet and test everything
	$(GO) vet ./...
	$(GO) test ./...

.PHONY: race
race: ## test with the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -shuffle=on ./...

.PHONY: lint
lint: ## run the linters of .golangci.yaml
	$(GO) run $(GOLANGCI) run ./...

.PHONY: generate
generate: ## rebuild the eBPF objects (needs clang and llvm-strip)
	$(GO) generate ./...

.PHONY: golden
golden: ## rewrite golden files, scripts and the manual page; review the diff
	$(GO) test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -update

.PHONY: lab
lab: ## build the guests of lab/README.md into the user's cache
	$(GO) run ./lab/cmd/lab build --kernel all

.PHONY: faults
faults: lab ## bring about every fault of the lab's table in guests (an hour)
	$(GO) run ./lab/cmd/lab faults --all

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME each
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

.PHONY: bench
bench: ## run the benchmarks, with allocations
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

.PHONY: figures
figures: $(if $(SLOW),lab) ## measure what BENCHMARKS.md publishes (four hours; SLOW= leaves guests out)
	$(GO) run ./lab/cmd/lab bench $(SLOW)

# Wants root and a machine that does nothing else. COST_TOOLS adds other tools
# to compare with, for example 'softirqs 1;netqtop-bpfcc -n eth0 -i 1'.
.PHONY: probe-cost
probe-cost: ## measure what the eBPF probes cost, into probes/COST.md
	NAPITUNE_COST=1 NAPITUNE_COST_TOOLS='$(COST_TOOLS)' $(GO) test -count=1 -timeout 60m -v \
		-run 'TestCostTable|TestOverhead|TestCompareTools' ./probes >probes/cost.log || { cat probes/cost.log; exit 1; }
	{ echo '# Cost of the eBPF probes'; echo; \
		echo "Measured by make probe-cost on Linux $$(uname -r), $$(nproc) CPUs, $$(date -u +%F), under small UDP packets"; \
		echo 'at full rate through a veth pair: one packet per softirq and poll, the worst case.'; \
		grep -E '^(\||###|$$)' probes/cost.log | cat -s; } >probes/COST.md
	rm probes/cost.log

.PHONY: cross
cross: ## build for arm64, and the pure packages where there is no Linux
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/napitune
	GOOS=darwin GOARCH=arm64 $(GO) vet $$($(GO) list ./... | grep -vE '/(probes|detect/host/live)(/|$$)')
	GOOS=js GOARCH=wasm $(GO) build ./rules/...

# A version that sorts before every release where there is no tag yet.
VERSION       ?= $(or $(patsubst v%,%,$(shell git describe --tags --match 'v[0-9]*' 2>/dev/null)),0.0.0~git$(shell git log -1 --date=format:%Y%m%d%H%M%S --format=%cd.%h))
PACKAGE_ARCHS ?= amd64 arm64

.PHONY: packages
packages: ## build deb and rpm of PACKAGE_ARCHS in dist
	@mkdir -p dist
	@rm -f dist/*.deb dist/*.rpm
	gzip -9nc cmd/napitune/napitune.8 > dist/napitune.8.gz
	git log -50 --format='%h %cs %s' | gzip -9nc > dist/changelog.gz
	@set -e; for arch in $(PACKAGE_ARCHS); do \
		GOARCH=$$arch $(GO) build -trimpath -ldflags "-s -w -X main.release=$(VERSION)" -tags urfave_cli_no_docs -o dist/napitune-$$arch ./cmd/napitune; \
		for kind in deb rpm; do \
			ARCH=$$arch VERSION=$(VERSION) DIST=dist SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
				$(GO) run $(NFPM) package --config cmd/napitune/packaging/nfpm.yaml --packager $$kind --target dist; \
		done; \
	done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
