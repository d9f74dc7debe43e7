# Two commands matter: `make demo` and `make test`. The rest is for those who stay.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Three processes keep two cores busy, for many tests wait for others. A file's tests stay in one process, so that what
# they share is made once. Groups (loadgroup) do nothing: xdist 3.8 writes them into a field that pytest 9 no longer reads.
THREE := --numprocesses 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo up down test test-slow test-long lint types floors bench lock clean

help: ## show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.installed ## the virtual environment with pinned requirements

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## ten symbols, three years of days and 90 days of minutes, then the Dagster UI
	$(BIN)/ohlcv demo

up: install ## start the sandbox, the Dagster UI and the daemon
	$(BIN)/ohlcv up

down: install ## stop them
	$(BIN)/ohlcv down

test: install ## every test that takes less than a minute by itself
	$(BIN)/python -m pytest $(THREE)

test-slow: install ## the tests that take longer: kills, a minute of writers and readers, a real daemon, Dagster's UI
	$(BIN)/python -m pytest -m 'slow and not long' --timeout 900 $(THREE)

test-long: install ## the same proofs over many rounds: 1,000 flipped bits, 500 killed alerts, 90 sessions
	$(BIN)/python -m pytest -m long --timeout 1800

lint: install ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## strict types
	$(BIN)/mypy

floors: install ## imports point one way
	$(BIN)/lint-imports

bench: install ## every number the project promises, beside a raw baseline
	$(BIN)/python -m ohlcv_pipeline_tests.benchmarks

lock: ## pin the newest versions that fit (needs uv)
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras \
	  --extra dev --extra polars --output-file requirements.lock pyproject.toml

clean: ## the virtual environment and caches, not the data in var/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
