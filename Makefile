# Everything people type. `make` alone lists it; nothing here needs root, Docker or a running server.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN_TESTS := $(BIN)/python scripts/run_tests.py

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-unit test-integration test-fast test-faults soak test-performance \
        lint format quality lock clean version

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Say which: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY): requirements-dev.lock pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing what requirements-dev.lock names (about 400 MB to fetch the first time) ..."
	@# The lock is complete; --no-deps, since two packages ask for opencv-python, which pyproject.toml keeps out of it.
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

install: | $(VENV)/pyvenv.cfg ## Install what the worker needs to run, into .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps .

install-dev: $(READY) ## Install the worker for development, with test and check tools

demo: $(READY) ## Simulated cameras, the worker and a page to look at, until Ctrl-C
	$(BIN)/detector-worker demo

test: $(READY) ## All tests but faults and soaks, with coverage; makes .venv by itself
	$(RUN_TESTS) --all --coverage

test-unit: $(READY) ## Unit tests
	$(RUN_TESTS) --unit

test-integration: $(READY) ## Tests against real servers, cameras and models
	$(RUN_TESTS) --integration

test-fast: $(READY) ## All tests that take moments
	$(RUN_TESTS) --fast

test-faults: $(READY) ## Kill and break things, and see that nothing is lost
	$(RUN_TESTS) --faults

soak: $(READY) ## What takes hours: as test-faults, a hundred times more of it
	$(RUN_TESTS) --soak

test-performance: $(READY) ## Measure and report
	$(RUN_TESTS) --performance

lint: $(READY) ## ruff and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

quality: lint ## lint, and mypy --strict
	$(BIN)/mypy

lock: $(READY) ## Resolve the dependencies anew into the two lock files (needs uv)
	uv pip compile --quiet --universal --no-strip-extras --generate-hashes --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --no-strip-extras --generate-hashes --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock

version: ## Print the version
	@sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml

clean: ## Remove what was built or cached; keeps .venv and data
	rm -rf build dist *.egg-info htmlcov coverage.xml .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find detector_worker tests tools scripts -name __pycache__ -type d -prune -exec rm -rf {} +
