# `make run` and `make test` create .venv themselves with python3 (3.11 or newer) and pip.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test test-slow kill-loop ui bench wheel licences docs audit clean

run: .venv/installed
	$(BIN)/rmw run quickstart

# Tests often wait for servers and processes: three at a time fill two cores, the longest files first.
test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" --durations=15

test-slow: .venv/installed
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m slow --durations=15

# 1,000 random SIGKILLs, in several calls if need be: make kill-loop KILLS=200 SEED=7 LEDGER=kills.jsonl
KILLS ?= 1000
SEED ?= 0
LEDGER ?= kills.jsonl
kill-loop: .venv/installed
	OMP_WAIT_POLICY=passive $(BIN)/python -m rm_workflow_tests.faults.kill_loop --kills $(KILLS) --seed $(SEED) --ledger $(LEDGER)

ui: .venv/installed
	$(BIN)/rmw ui

bench: .venv/installed
	$(BIN)/python -m benchmarks

# The package for an environment without the checkout, with catalogue, SQL and schemas inside.
wheel: .venv/installed licences
	$(BIN)/pip wheel --quiet --no-deps -w dist .

# Licences of all that is installed with it, from the packages' own metadata; part of a release.
licences: .venv/installed
	mkdir -p dist
	$(BIN)/python -m rm_workflow.dependency_licences > dist/LICENCES.md

# Pages, schemas and tables that are made from the code.
docs: .venv/installed
	$(BIN)/python -m rm_workflow_tests.docs

# What is installed: its licences, and known weaknesses (asked of the Python advisory database over the network).
audit: .venv/installed
	$(BIN)/pip install --quiet --progress-bar off 'pip-audit>=2.9,<3' 'pip-licenses>=5,<6'
	$(BIN)/pip-licenses --order=license --ignore-packages rm-workflow
	$(BIN)/pip-audit --skip-editable

clean:
	rm -rf .venv data/home build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --progress-bar off -e '.[test]'
	touch $@
