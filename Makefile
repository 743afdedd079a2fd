# The same targets on a laptop, a GPU host and in CI. `make help` lists them.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
SOURCES := pyproject.toml CMakeLists.txt tools/install.sh $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt')
ARGS ?=
# More would disturb each other: many tests measure.
TEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup run test lint test-cpp test-python test-postgres bench docs clean \
  slurm-up slurm-down test-slurm ray-up ray-down test-ray

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv and install wattcount with vLLM for this machine

$(VENV)/.installed: $(SOURCES)
	VENV=$(VENV) tools/install.sh

run: setup ## Measure: the main job on this machine (ARGS='model=... scenario=...')
	$(PY) -m wattcount $(ARGS)

test: setup lint test-cpp test-python ## Everything that CI checks

lint: setup ## ruff, mypy --strict
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test-cpp: setup ## C++ unit tests, plain and under ASan+UBSan and TSan
	@export PATH="$(abspath $(VENV))/bin:$$PATH"; set -e; for preset in default asan tsan; do \
	  cmake --preset $$preset >/dev/null && cmake --build --preset $$preset && ctest --preset $$preset; done

test-python: setup ## Python tests (no GPU, no network)
	$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile $(ARGS)

slurm-up: setup ## A SLURM cluster on this machine with emulated GPUs (needs slurm-wlm, munge; extra `slurm`)
	PYTHON=$(PY) tools/slurm_test_cluster.sh start

slurm-down: ## End it
	tools/slurm_test_cluster.sh stop

test-slurm: slurm-up ## Sweeps through SLURM
	eval "$$(tools/slurm_test_cluster.sh env)"; $(PY) -m pytest -m slurm tests/sweep/running/test_clusters.py $(ARGS)

ray-up: setup ## A Ray cluster on this machine with emulated GPUs (needs the extra `ray`)
	PYTHON=$(PY) tools/ray_test_cluster.sh start

ray-down: ## End it
	PYTHON=$(PY) tools/ray_test_cluster.sh stop

test-ray: ray-up ## Sweeps through Ray
	eval "$$(PYTHON=$(PY) tools/ray_test_cluster.sh env)"; $(PY) -m pytest -m ray tests/sweep/running/test_clusters.py $(ARGS)

test-postgres: setup ## Tracking against a server with PostgreSQL (apt-get install postgresql; extra `postgres`)
	$(PY) -m pip install -q 'psycopg2-binary>=2.9'
	$(PY) -m pytest -m postgres tests/tracking $(ARGS)

bench: setup ## Benchmarks (extra `bench`); each file in benchmarks/ says what it shows
	@set -e; for b in benchmarks/bench_*.py; do echo "== $$b"; $(PY) $$b; done

docs: setup ## Write the tables in docs/ again from the records in the repository
	$(PY) tools/make_docs.py

clean: ## Remove what was built (not .venv: rm -r .venv)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
