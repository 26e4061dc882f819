# make demo, make test: each sets itself up first (see .ci/setup.sh) and says what it does.
.PHONY: build demo test lint sim bench wheelhouse clean
.DEFAULT_GOAL := build

PY := .venv/bin/python
ENGINE := setup.py pyproject.toml $(shell find fastpath -name '*.pyx' -o -name '*.pxd')
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
	@$(PY) setup.py build_ext --inplace
	@touch $@

.venv/probes.stamp: .venv/engine.stamp
	@echo "==> building the probes that tests look into the engine with"
	@PIAGENT_PROBE=1 $(PY) setup.py build_ext --inplace
	@touch $@

build: .venv/engine.stamp  ## set up .venv and build the engine in place

demo: build  ## three agents on this machine; ARGS=--once for the tour
	@$(PY) -m piagent.cli demo $(ARGS)

test: build .venv/dev.stamp .venv/probes.stamp  ## every test that CI runs
	@$(PY) -m pytest $(ARGS)

lint: build .venv/dev.stamp .venv/probes.stamp  ## only the style checks
	@$(PY) -m pytest tests/style $(ARGS)

sim: build .venv/dev.stamp  ## longer simulations: make sim ARGS='--seeds 5000 --brokers 3'
	@$(PY) -m tests.sim $(ARGS)

bench: build .venv/dev.stamp  ## beside nginx and HAProxy, alternating runs
	@$(PY) -m benchmarks $(ARGS)

wheelhouse: .venv/run.stamp  ## the wheels that the Ansible role installs
	@$(PY) -m pip wheel --wheel-dir ansible/wheelhouse .

clean:  ## everything that was built or installed here
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find fastpath -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
