# Everything that a developer runs. Each target sets up what it needs by itself.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup check lint types contracts test e2e demo bench evaluate requirements clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# --no-deps: the files are whole. Resolving them anew, pip takes a newer release of a package that another one asks for
# with an extra (coverage[toml]), and then refuses it for want of a hash. `pip check` says if something was missing.
$(VENV)/.ready: requirements/dev.txt requirements/build.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned requirements into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt -r requirements/build.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check --quiet --disable-pip-version-check
	@touch $@

setup: $(VENV)/.ready ## make .venv with all but torch and vLLM

check: lint types contracts ## lint, types and import contracts

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

# A file of tests stays in one process: many share what is dear to make.
test: setup ## the fast tests, a process for each core: no cluster, no GPU, no network
	$(BIN)/pytest -n auto --dist loadfile

e2e: setup ## the stories, on a cluster that this brings up and takes down (see e2e/cluster/README.md)
	$(BIN)/pytest -m e2e e2e

demo: setup ## the main job, live, on a cluster of its own
	@$(BIN)/python -m e2e.demo

bench: setup ## the operator's figures, at full size
	@$(BIN)/python -m e2e.bench

# Twice: every selector on all kinds of traffic; and, for four of them on one kind, all that --quick leaves out (learning
# curve, importance, simulations, the operator's own choice). All tasks are in both worlds, since they are few.
evaluate: setup ## a small corpus, every selector judged on it, and studies, in minutes: build/evaluation*/report.md
	$(BIN)/metainf corpus build --out build/evaluation-corpus --tasks 60 --compared-every 1 --worlds world:0 roofline
	$(BIN)/metainf evaluate --corpus build/evaluation-corpus --world world:0 --quick --out build/evaluation
	$(BIN)/metainf evaluate --corpus build/evaluation-corpus --world world:0 --simulated-by roofline --kind concurrency \
		--split leave-model-out --most-folds 2 --selectors single-best,roofline-only,nearest-neighbour,metainf \
		--predictor-lanes 600 --operator-workloads 2 --published-most 64 --out build/evaluation-studies

UV_COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes

requirements: setup ## compile requirements/*.txt from pyproject.toml, with hashes
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/$(UV_COMPILE) --extra operator -o requirements/operator.txt pyproject.toml
	$(BIN)/$(UV_COMPILE) --extra dev -c requirements/operator.txt -o requirements/dev.txt pyproject.toml
	printf 'hatchling>=1.27\neditables\n' | $(BIN)/$(UV_COMPILE) -o requirements/build.txt -

clean: ## remove what was built in the tree; caches outside of it stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
