# SPDX-License-Identifier: Apache-2.0

# The one place that names the compiler of the BPF objects. Another version
# generates different code, so `make lint` would report that the committed objects differ.
LLVM         := 19
CLANG        := clang-$(LLVM)
CLANG_FORMAT := clang-format-$(LLVM)

GO           := go
PREFIX       := /usr/local
CNIDIR       := /opt/cni/bin
NETAVARKDIR  := /usr/local/lib/netavark
UNITDIR      := /usr/lib/systemd/system
SYSUSERSDIR  := /usr/lib/sysusers.d
PLUGINDIR    := bin/docker-plugin
# Bounds one test binary: test/scenario takes ten to fifteen minutes, and three times as long on a busy machine.
TEST_TIMEOUT := 60m

BPF_SOURCES  := $(wildcard bpf/*.bpf.c bpf/lib/*.h)
# For a build outside of a git clone, for example from a tarball: make build VERSION=1.2.3
VERSION      :=
LDFLAGS       = $(if $(VERSION),-ldflags '-X main.version=$(VERSION)')
# For tools: as the programs are built, so that no package is compiled once more with other flags.
AS_BUILT     := CGO_ENABLED=0 GOFLAGS=-trimpath
DEPS         := LLVM=$(LLVM) test/deps.sh
ROOT          = [ "$$(id -u)" = 0 ] || \
	{ echo "make $@ creates network namespaces and loads BPF programs: run it as root"; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help build generate format lint analyse test test-guests test-units test-real bench bench-count bench-engine bench-full bench-growth bench-names bench-nodes bench-overlay bench-smoke fuzz outage overlay-guests demo install docker-plugin clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the programs in bin/; needs only Go.
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto $(LDFLAGS) -o bin/ ./cmd/...

generate: ## Compile the BPF programs and generate their Go bindings.
	@$(DEPS) generate
	$(AS_BUILT) BPF2GO_CC=$(CLANG) BPF2GO_STRIP=llvm-strip-$(LLVM) $(GO) generate ./bpf

format: ## Format Go and C.
	@$(DEPS) generate
	gofmt -w $$($(GO) list -f '{{.Dir}}' ./...)
	$(CLANG_FORMAT) -i $(BPF_SOURCES)

lint: generate analyse ## Check format, vet, staticcheck, and that the generated files are committed.

# With -race, what vet and staticcheck compile serves the tests, too; with -trimpath, those of another clone.
analyse:
	@unformatted=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	if [ -n "$$unformatted" ]; then echo "not formatted (run make format):"; echo "$$unformatted"; exit 1; fi
	$(CLANG_FORMAT) --dry-run -Werror $(BPF_SOURCES)
	CGO_ENABLED=1 $(GO) vet -race -trimpath ./...
	staticcheck=$$($(AS_BUILT) $(GO) tool -n staticcheck) && CGO_ENABLED=1 GOFLAGS="-race -trimpath" $$staticcheck ./...
	@git diff --exit-code --stat -- 'bpf/*_bpfel.*' || \
	{ echo "the files generated in bpf/ differ from those in git (commit or stage the output of make generate)"; exit 1; }

# Packages with real programs and traffic, the longest first, so that none of them is left over at the end, and the loader, which
# does one thing at a time; guests, which are emulated, so that what is in them does not depend on time; and tests of units.
REAL          = ./test/scenario ./test/cluster ./test/engines ./test/datapath ./test/scale ./test/overlay ./test/faces \
	./bench ./bench/contestant/... ./bench/kernel ./loader ./test/...
GUESTS        = ./bench/count ./test/kernels
PACKAGES      = $(shell $(GO) list ./...)
LISTED        = $(shell $(GO) list $(1))

# -w omits debug information, which reduces the time to link by a third; lint vets. A program with the race
# detector sleeps for a second before it exits, without GORACE.
GO_TEST       = $(GO) test -trimpath -vet=off -ldflags=-w -count=1 -timeout $(TEST_TIMEOUT)
TEST_UNITS    = GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 $(GO_TEST) -race
# The daemon that these test has the race detector; with it, the tests themselves would load the machine with
# nothing but their own traffic. They share what `make build` compiled.
TEST_REAL    = CGO_ENABLED=0 $(GO_TEST)

# A guest takes one processor, and so do the tests of units, which run beside them. The last lines are go test's own.
test: ## Run every check and test, as root; installs missing packages with apt.
	@$(ROOT)
	@$(DEPS) test
	@GO=$(GO) test/crictl.sh
	@test/podman/root.sh >/dev/null
	@for suite in bookworm trixie; do test/systemd/root.sh $$suite >/dev/null || exit 1; done
	@test/stores.sh >/dev/null
	@GO=$(GO) bench/docker29.sh
	@$(AS_BUILT) $(GO) run ./bench/count -note
	@$(MAKE) --no-print-directory build generate
	@status=0; \
	$(MAKE) --no-print-directory -k -j 2 test-guests test-units || status=1; \
	$(MAKE) --no-print-directory test-real || status=1; \
	exit $$status

# One after the other: the kernel matrix runs two guests at a time.
test-guests:
	@$(TEST_REAL) -p 1 $(call LISTED,$(GUESTS))

# ZooKeeper's client has a data race of its own.
test-units: analyse
	@$(TEST_UNITS) -p 2 $(filter-out $(call LISTED,$(REAL) $(GUESTS)),$(PACKAGES))
	@$(TEST_REAL) -run 'TestConformance/zk$$' ./control/cluster/kv/open

test-real:
	@$(TEST_REAL) -p 3 $(filter-out $(call LISTED,$(GUESTS)),$(call LISTED,$(REAL)))

# A contestant that is not packaged; the contestants under Docker; and the run itself, which
# is kept with its report and charts.
DOCKER29     := GO=$(GO) bench/docker29.sh || echo "Docker Engine 29 could not be built; the report will say that it is absent"
ACROSS       := limit,fairlead,bridge,docker-overlay
ENGINE       := fairlead,docker20,fairlead-docker,fairlead-untracked
RUN_BENCH     = mkdir -p bench/results/$(1) && { bin/fairlead bench --case $(1) $(2) --out bench/results/$(1)/run.json \
	>bench/results/$(1)/report.txt; status=$$?; cat bench/results/$(1)/report.txt; [ $$status = 0 ]; } && \
	$(GO) run ./bench/chart -out bench/results/$(1) bench/results/$(1)/run.json

bench: build ## Compare with Docker, a bridge and no network, as root; 45 minutes at most.
	@$(ROOT)
	@$(DEPS) bench
	@$(DOCKER29)
	@$(call RUN_BENCH,headline,--seconds 0.7)

bench-count: ## Count instructions in a guest; 15 minutes, or two with CONTESTANTS=fairlead.
	@$(DEPS) count
	$(GO) run ./bench/count $(if $(CONTESTANTS),-contestants $(CONTESTANTS))
	@cat bench/results/count/table.txt

bench-engine: build ## Compare Fairlead under Docker with either alone; eight minutes.
	@$(ROOT)
	@$(DEPS) bench
	@$(call RUN_BENCH,engine,--seconds 0.6 --contestants $(ENGINE))

bench-overlay: build ## Compare networks of two hosts, as root; six minutes.
	@$(ROOT)
	@$(DEPS) bench
	@$(DOCKER29)
	@$(call RUN_BENCH,overlay,--seconds 0.7 --contestants $(ACROSS))

bench-full: build ## Measure every case; takes hours.
	@$(ROOT)
	@$(DEPS) bench
	@$(DOCKER29)
	@$(call RUN_BENCH,all,)

bench-growth: build ## Measure with many ports and flows, and their setup; an hour or more.
	@$(ROOT)
	@$(DEPS) bench
	@$(DOCKER29)
	@$(call RUN_BENCH,growth,)

bench-names: ## Count the answers of the name server per second, from a sandbox, as root; half a minute.
	@$(ROOT)
	CGO_ENABLED=0 $(GO) test -count=1 -v -run TestRate ./test/names -querytime 5s
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench Answer ./control/dns

NODES = -nodes 1000 -span 100 -endpoints 100000 -networks 50 -churn 50 -samples 1000
bench-nodes: ## Time a change on one of 1 000 simulated nodes to a map of a daemon; three minutes.
	@$(ROOT)
	CGO_ENABLED=0 $(GO) test -count=1 -v -run TestManyNodes ./test/scale $(NODES)

bench-smoke: ## Run every benchmark briefly; part of make test.
	@$(DEPS) bench
	@GO=$(GO) bench/docker29.sh
	$(GO) test -count=1 -run TestSmoke ./bench

DURATION := 1h
fuzz: ## Compare with the kernel's own NAT on random packets for DURATION, as root.
	@$(ROOT)
	@$(DEPS) test
	$(GO) test -count=1 -timeout 0 -v -run TestDifferences ./test/fuzz -seed 0 -sequences 0 -time $(DURATION)

overlay-guests: ## Run all tests of overlay networks on the kernels of the matrix, as root.
	@$(ROOT)
	@$(DEPS) test
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 -v -run 'TestOverlay$$' ./test/kernels -args -overlay .

outage: ## Take the store of two hosts away under traffic and verbs for DURATION, as root.
	@$(ROOT)
	@$(DEPS) test
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 -v -run TestOutage ./test/cluster -outage $(DURATION)

demo: build ## Show real programs that communicate through Fairlead, in namespaces, as root.
	@$(ROOT)
	@$(DEPS) demo
	@bin/fairlead demo

install: build ## Install binaries and the systemd units (PREFIX, CNIDIR, NETAVARKDIR, DESTDIR); does not start them.
	install -D -m 0755 bin/fairlead $(DESTDIR)$(PREFIX)/bin/fairlead
	install -D -m 0755 bin/fairlead-store $(DESTDIR)$(PREFIX)/bin/fairlead-store
	install -D -m 0755 bin/fairlead-cni $(DESTDIR)$(CNIDIR)/fairlead-cni
	install -D -m 0755 bin/fairlead-netavark $(DESTDIR)$(NETAVARKDIR)/fairlead
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|@BINDIR@|$(PREFIX)/bin|' deploy/fairlead.service > $(DESTDIR)$(UNITDIR)/fairlead.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/fairlead.service
	install -m 0644 deploy/fairlead.socket $(DESTDIR)$(UNITDIR)/fairlead.socket
	install -D -m 0644 deploy/fairlead.sysusers $(DESTDIR)$(SYSUSERSDIR)/fairlead.conf

docker-plugin: ## Create the input of `docker plugin create` in PLUGINDIR.
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto $(LDFLAGS) -o $(PLUGINDIR)/rootfs/fairlead ./cmd/fairlead
	install -m 0644 deploy/docker-plugin/config.json $(PLUGINDIR)/config.json

clean: ## Remove the output of make build.
	rm -rf bin
