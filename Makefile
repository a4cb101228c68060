# The tasks of a developer. `make` without a target prints them.
#
# VENV         the environment to use. By default it is .venv, which make creates and updates; make never changes another one.
# PYTHON       the interpreter for a new .venv, 3.11 or later. By default make finds one.
# PYTEST_ARGS  arguments for pytest, for instance PYTEST_ARGS=tests/unit. By default every test runs, in JOBS processes (one
#              more than there are cores, since many tests wait most of the time).
# ROW          the row of `make bench`, or a module in bench/studies. By default all rows are measured. ARGS are its arguments:
#              ARGS='--against ../before' compares with another checkout.
# AGAINST      the git revision with which `make check` compares the contract. By default it is the commit where this branch
#              left main.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

VENV ?= .venv
PYTHON ?=
JOBS ?= $(shell expr $$(nproc) + 1)
PYTEST_ARGS ?= -n $(JOBS) --dist loadgroup
# These tests flood a server and measure its memory and how long others wait. Nothing else may run beside them.
ALONE := tests/faults/callers
AGAINST ?=
ROW ?=
ARGS ?=

PY := "$(VENV)/bin/python"
MODULE := $(subst -,_,$(ROW))
PROTOS := $(shell find protos -name '*.proto')

# make uses a given environment as it is.
ifeq ($(origin VENV),file)
READY := $(VENV)/.protos-made
else
READY :=
endif

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv: $(READY) ## Make or refresh .venv: the project, editable, with its development tools

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py scripts/venv
	@scripts/venv "$(VENV)" "$(PYTHON)"
	@touch "$@"

$(VENV)/.protos-made: $(VENV)/.installed $(PROTOS) hatch_build.py
	@$(PY) hatch_build.py
	@touch "$@"

.PHONY: protos
protos: $(READY) ## Generate the protobuf and gRPC modules beside their .proto files
	@$(PY) hatch_build.py

.PHONY: check
check: $(READY) ## Check lint, format, types and contract, without running code
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	scripts/buf lint
	scripts/buf format --diff --exit-code
	scripts/buf-breaking "$(AGAINST)"

.PHONY: format
format: $(READY) ## Format the code and the contract
	$(PY) -m ruff check --fix-only --quiet
	$(PY) -m ruff format
	scripts/buf format --write

.PHONY: parts
parts: ## Install the system packages that the tests need (root, Debian or Ubuntu), or say what is missing
	@scripts/system-packages

.PHONY: test
test: parts check ## Run everything that CI runs: check, then every test against the real parts
ifeq ($(origin PYTEST_ARGS),file)
	$(PY) -m pytest $(PYTEST_ARGS) --ignore $(ALONE)
	$(PY) -m pytest $(ALONE)
else
	$(PY) -m pytest $(PYTEST_ARGS)
endif

.PHONY: test-cluster
test-cluster: $(READY) ## Run every end-to-end test that can on PostgreSQL and an object store
	$(PY) -m pytest --backends cluster $(PYTEST_ARGS)

.PHONY: demo
demo: $(READY) ## Show a server, a worker and a file on its way, in a temporary directory
	@$(PY) -m scripts.demo

.PHONY: demo-lxd
demo-lxd: $(READY) ## Show the same with a real container (root)
	@scripts/system-packages lxd busybox
	@$(PY) -m scripts.demo --lxd

.PHONY: demo-cluster
demo-cluster: $(READY) ## Show PostgreSQL, S3, three servers, four workers, a load, and two processes killed
	@scripts/system-packages postgresql
	@$(PY) -m scripts.demo_cluster $(ARGS)

.PHONY: bench
bench: $(READY) ## Measure every figure of docs/performance.md beside its peers, or one, as in ROW=claim
	@$(PY) -m bench$(if $(wildcard bench/studies/$(MODULE).py),.studies.$(MODULE), $(ROW)) $(ARGS)

.PHONY: bench-scale
bench-scale: $(READY) ## Ask a database of 11 million tasks the same as one of 2,000: an hour, 20 GB of disk
	@$(PY) -m bench backlog-full $(ARGS)

.PHONY: bench-soak
bench-soak: $(READY) ## Run a mixed load with kills for half an hour, and show that nothing grows; ARGS='--minutes N'
	@$(PY) -m bench soak $(ARGS)

.PHONY: fuzz
fuzz: $(READY) ## Send a server a hundred thousand wrong calls, in ten minutes; ARGS='--seed N --calls N' repeats a run
	@$(PY) -m tests.support.fuzzing.campaign $(ARGS)

.PHONY: places
places: $(READY) ## Run thousands of exclusive jobs, others and pushes beside kills, on three servers; ARGS is the number of tasks
	PLACES="$(or $(ARGS),5000)" $(PY) -m pytest --timeout 3600 tests/faults/kills/test_places.py -k beside

.PHONY: lock
lock: ## Write constraints.txt at the newest versions that pyproject.toml allows
	@scripts/lock "$(VENV)" "$(PYTHON)"

.PHONY: clean
clean: ## Remove everything that make creates: .venv, generated modules, caches
	@rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . \( -path ./.git -prune \) -o \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' \) -type f -exec rm -f {} +
	@find . \( -path ./.git -prune \) -o -name __pycache__ -type d -prune -exec rm -rf {} +
