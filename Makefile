# The same targets on a laptop, a GPU host and in CI. `make help` lists them.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
SOURCES := pyproject.toml CMakeLists.txt tools/install.sh $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt')
ARGS ?=
# Processes that run tests. Three: half of the time of a run under test is waiting, so that two leave two cores idle.
TEST_WORKERS ?= 3
# What `make test-all` needs beside `make setup`: extras of pyproject.toml.
TEST_EXTRAS := slurm,ray,postgres,llama-cpp,dataset-tests,browser-tests

.DEFAULT_GOAL := help
.PHONY: help setup setup-all run what-run-takes wheels test test-all lint test-cpp test-cpp-sanitized test-python test-python-all \
  test-clusters test-postgres test-browser bench dataset pages docs site-docs clean \
  slurm-up slurm-down test-slurm ray-up ray-down test-ray

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv and install wattcount with vLLM for this machine

$(VENV)/.installed: $(SOURCES)
	VENV=$(VENV) tools/install.sh

run: what-run-takes setup ## Measure: the main job on this machine (ARGS='model=... scenario=...')
	$(PY) -m wattcount $(ARGS)

what-run-takes:
	@if [ -f $(VENV)/.installed ]; then echo "make run: measures; without a GPU and with no ARGS that takes some four minutes, half of them vLLM's start on the CPU"; \
	else echo "make run: 1. installs into $(VENV), once: some four minutes; 2. measures: without a GPU some four minutes, half of them vLLM's start on the CPU"; fi

test: setup lint test-cpp test-python ## All that this machine can test in minutes (no GPU, no network)

test-all: ## All that CI checks: `make test`, sanitizers, and the suites of SLURM, Ray and PostgreSQL, which it starts and stops
	VENV=$(VENV) tools/test_all.sh

setup-all: $(VENV)/.installed-all ## `make setup` with the extras that `make test-all` needs

$(VENV)/.installed-all: $(SOURCES)
	VENV=$(VENV) EXTRAS=$(TEST_EXTRAS) tools/install.sh
	touch $@

lint: setup site-docs ## ruff, mypy --strict, the import contracts of pyproject.toml, links of the documents
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tools/lint_imports.py

cpp_tests = export PATH="$(abspath $(VENV))/bin:$$PATH"; set -e; for preset in $(1); do \
  cmake --preset $$preset >/dev/null && cmake --build --preset $$preset && ctest --preset $$preset; done

test-cpp: setup ## C++ unit tests
	@$(call cpp_tests,default)

test-cpp-sanitized: setup ## C++ unit tests under ASan+UBSan and TSan
	@$(call cpp_tests,asan tsan)

test-python: setup ## Python tests but those that take minutes or need a service
	$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not slow and not slurm and not ray and not postgres" $(ARGS)

test-python-all: setup-all ## Python tests but those of clusters; a skip that tests/no_skips.py does not list is a failure
	WATTCOUNT_NO_SKIPS=1 $(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not slurm and not ray" $(ARGS)

test-clusters: setup-all ## Sweeps through SLURM and Ray, both of which are up (tools/test_all.sh starts them)
	WATTCOUNT_NO_SKIPS=1 $(PY) -m pytest -m "slurm or ray" tests/sweep/test_clusters.py $(ARGS)

# The packages of one extra, beside what is installed.
$(VENV)/.extra-%: $(VENV)/.installed
	@echo "Installing the extra $* (some seconds)"
	$(PY) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$*'], sep='\n')" >$@.txt
	$(PY) -m pip install -q --disable-pip-version-check -r $@.txt && mv $@.txt $@

slurm-up: $(VENV)/.extra-slurm ## A SLURM cluster on this machine with emulated GPUs (needs slurm-wlm, munge)
	PYTHON=$(PY) tools/slurm_test_cluster.sh start

slurm-down: ## End it
	tools/slurm_test_cluster.sh stop

test-slurm: slurm-up ## Sweeps through SLURM: some five minutes
	eval "$$(tools/slurm_test_cluster.sh env)"; WATTCOUNT_NO_SKIPS=1 $(PY) -m pytest -m slurm tests/sweep/test_clusters.py $(ARGS)

ray-up: $(VENV)/.extra-ray ## A Ray cluster on this machine with emulated GPUs
	PYTHON=$(PY) tools/ray_test_cluster.sh start

ray-down: ## End it
	PYTHON=$(PY) tools/ray_test_cluster.sh stop

test-ray: ray-up ## Sweeps through Ray: some four minutes
	eval "$$(PYTHON=$(PY) tools/ray_test_cluster.sh env)"; WATTCOUNT_NO_SKIPS=1 $(PY) -m pytest -m ray tests/sweep/test_clusters.py $(ARGS)

test-postgres: $(VENV)/.extra-postgres ## Tracking against a server with PostgreSQL (apt-get install postgresql)
	WATTCOUNT_NO_SKIPS=1 $(PY) -m pytest -m postgres tests/tracking $(ARGS)

wheels: setup ## Wheels for Linux (manylinux) in dist/, each tried in an environment of its own
	PYTHON=$(PY) tools/make_wheels.sh

test-browser: $(VENV)/.extra-browser-tests ## Pages, and MLflow's, in a real browser (apt-get install chromium)
	WATTCOUNT_NO_SKIPS=1 $(PY) -m pytest -m browser tests/site tests/tracking $(ARGS)

dataset: setup ## Make data/dataset again of all records in data/ (ARGS=--check: only compare)
	$(PY) tools/make_dataset.py $(ARGS)

bench: setup ## Benchmarks (extra `bench`); each file in benchmarks/ says what it shows
	@set -e; for b in benchmarks/bench_*.py; do echo "== $$b"; $(PY) $$b; done

pages: setup ## The pages of data/dataset, in build/pages: open build/pages/index.html
	$(PY) -m wattcount report data/dataset -o build/pages $(ARGS)

docs: setup ## Write the tables in docs/ again from the records in the repository
	$(PY) tools/make_docs.py

# Not --quiet: MkDocs then counts no warnings, and a dead link is no error.
site-docs: setup ## Build the documents as a site in build/docs; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

clean: ## Remove what was built (not .venv: rm -r .venv)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
