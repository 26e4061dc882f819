# make demo, make test: each sets itself up first (see .ci/setup.sh) and says what it does.
.PHONY: build bpf demo test test-arm64 lint asan tsan fuzz-structures fuzz-packet fuzz-http slow-http fuzz-mutants lab sim sim-mutants sim-scale model bench bench-l4 bench-http bench-held bench-packet bench-routes bench-forward soak bench-failover bench-lease wheelhouse clean help
.DEFAULT_GOAL := build
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

PY := .venv/bin/python
BUILD := $(PY) setup.py build_ext --inplace
ENGINE := setup.py pyproject.toml $(shell find fastpath -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
# One line a module; what the compilers complain about comes by standard error, whole.
PROGRESS := '/^\[\|^building/p'
ARGS ?=

# The stamps hold what is installed and built; a second run finds them fresh and starts at once.
.venv/run.stamp: pyproject.toml .ci/setup.sh
	@bash .ci/setup.sh run
	@touch $@

.venv/dev.stamp: .venv/run.stamp
	@bash .ci/setup.sh dev
	@touch $@

.venv/engine.stamp: .venv/run.stamp $(ENGINE)
	@echo "==> building the engine (Cython, C)"
	@$(BUILD) | sed -un $(PROGRESS)
	@touch $@

.venv/probes.stamp: .venv/engine.stamp
	@echo "==> building the probes that tests look into the engine with"
	@PIAGENT_PROBE=1 $(BUILD) | sed -un $(PROGRESS)
	@touch $@

.venv/address.stamp: .venv/probes.stamp .venv/dev.stamp
	@echo "==> building the engine that AddressSanitizer watches, beside the other"
	@$(PY) -m tests.sanitizers address --build | sed -un $(PROGRESS)
	@touch $@

.venv/arm64-parts.stamp: .venv/dev.stamp
	@echo "==> getting a Python for arm64"
	@$(PY) -m tests.arm64 --get
	@touch $@

.venv/arm64.stamp: .venv/probes.stamp .venv/arm64-parts.stamp
	@echo "==> building the engine for arm64, beside the other"
	@$(PY) -m tests.arm64 --build | sed -un $(PROGRESS)
	@touch $@

build: .venv/engine.stamp  ## set up .venv and build the engine in place

demo: build  ## three agents on this machine; ARGS=--once for the tour
	@$(PY) -m piagent.cli demo $(ARGS)

# What is downloaded comes while the engine is built; then two engines are, side by side. Tests
# mostly wait, for leases and for processes: three at a time keep two cores busy.
JOBS ?= 3
test:  ## every test that CI runs; JOBS=1: one after the other
	@$(MAKE) --no-print-directory --jobs=2 .venv/address.stamp .venv/arm64.stamp
	@$(PY) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: build .venv/dev.stamp .venv/probes.stamp  ## only the style checks
	@$(PY) -m pytest tests/style $(ARGS)

asan: .venv/address.stamp  ## the engine's tests under AddressSanitizer and UBSan
	@$(PY) -m tests.sanitizers address $(ARGS)

tsan: .venv/probes.stamp .venv/dev.stamp  ## the engine's tests under ThreadSanitizer
	@echo "==> building the engine that ThreadSanitizer watches, beside the other"
	@$(PY) -m tests.sanitizers thread --build | sed -un $(PROGRESS)
	@$(PY) -m tests.sanitizers thread $(ARGS)

test-arm64: .venv/arm64.stamp  ## packets, flows, hashes, structures on an emulated arm64
	@$(PY) -m tests.arm64 $(ARGS)

fuzz-structures: .venv/address.stamp  ## slab, ring, wheel, … at random beside models; ARGS='--steps 1000000 wheel'
	@$(PY) -m tests.fuzz $(ARGS)

fuzz-packet: .venv/address.stamp  ## ten million mutated frames through the packet code; ARGS='--steps 1000000'
	@$(PY) -m tests.fuzz packets $(ARGS)

fuzz-http: .venv/address.stamp  ## HTTP messages and whole exchanges, mutated; ARGS='--steps 1000000'
	@$(PY) -m tests.fuzz messages exchanges $(ARGS)

slow-http: build .venv/dev.stamp  ## slowhttptest's slow clients against a gateway, for five minutes; SECONDS=60
	@PIAGENT_SLOW_S=$(SECONDS) $(PY) -m pytest tests/fastpath/http/test_slow_clients.py $(ARGS)

fuzz-mutants: .venv/dev.stamp .venv/probes.stamp  ## each rule of a structure broken once: what the models notice
	@$(PY) -m tests.fuzz.mutants $(ARGS)

TIMES ?= 10
SECONDS ?= 300
lab: build .venv/dev.stamp .venv/probes.stamp  ## faults of a real cluster in namespaces, again and again: TIMES=10
	@PIAGENT_LAB_TIMES=$(TIMES) $(PY) -m pytest tests/lab/test_quorum.py tests/lab/test_planned.py \
	  tests/lab/test_placement.py tests/lab/test_leader.py $(ARGS)

SEEDS ?= 100
sim: build .venv/dev.stamp  ## the simulation in every house: make sim SEEDS=2000
	@$(PY) -m tests.sim --seeds $(SEEDS) $(ARGS)

sim-mutants: build .venv/dev.stamp  ## each rule removed once: what the simulation notices
	@$(PY) -m tests.sim.mutants

sim-scale: build .venv/dev.stamp  ## 1000 nodes: messages and CPU per node
	@$(PY) -m tests.sim.scale $(ARGS)

model: build .venv/dev.stamp  ## every order of events, by Spin; ARGS=--partial for what is too large
	@$(PY) -m tests.model $(ARGS)

bench: build .venv/dev.stamp  ## beside nginx and HAProxy, alternating runs
	@$(PY) -m benchmarks $(ARGS)

bench-l4: build  ## TCP and UDP beside HAProxy, nginx and a minimal relay: ARGS="--only request"
	@$(PY) -m benchmarks.l4 $(ARGS)

bench-http: build  ## HTTP beside nginx, HAProxy, Traefik, Caddy and a minimal relay: ARGS="--only request"
	@$(PY) -m benchmarks.http $(ARGS)

bench-held: build .venv/dev.stamp  ## 8,000 idle connections: memory and CPU time of each, beside HAProxy
	@$(PY) -m benchmarks.l4.held $(ARGS)

bench-packet: .venv/dev.stamp .venv/probes.stamp  ## what the forwarder's code takes for one packet, without I/O
	@$(PY) -m benchmarks.packet $(ARGS)

bench-routes: .venv/dev.stamp .venv/probes.stamp  ## what finding a route takes, among 1, 100, 10,000
	@$(PY) -m benchmarks.routes $(ARGS)

bench-forward: build .venv/dev.stamp  ## nat and dsr beside nftables and plain routing, as root: ARGS="--only packets"
	@$(PY) -m benchmarks.forward $(ARGS)

soak: build .venv/dev.stamp  ## a million connections in ten minutes, with a reload each second
	@$(PY) -m benchmarks.soak $(ARGS)

bench-failover: build .venv/dev.stamp  ## an owner's end beside keepalived's (apt install keepalived): ARGS=20
	@$(PY) -m benchmarks.failover $(ARGS)

bench-lease: build .venv/dev.stamp  ## the shortest lease that a loaded machine bears; takes an hour
	@$(PY) -m benchmarks.shortest_lease $(ARGS)

bpf: .venv/run.stamp  ## compile the flow cache's programs anew; needs clang, which nothing else does
	@$(PY) -m fastpath.packet.compile_flow_cache

wheelhouse: .venv/run.stamp  ## the wheels that the Ansible role installs: EXTRAS=bgp
	@$(PY) -m pip --disable-pip-version-check wheel --wheel-dir ansible/wheelhouse \
	  .$(if $(EXTRAS),[$(EXTRAS)])

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## */\1\t/p' Makefile | expand -t 16

clean:  ## everything that was built or installed here
	rm -rf .venv build dist *.egg-info ansible/wheelhouse .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find fastpath -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
