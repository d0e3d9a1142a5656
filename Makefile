# `make run` and `make test` create .venv themselves with python3 (3.11 or newer) and pip.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test test-slow ui bench clean

run: .venv/installed
	$(BIN)/rmw run quickstart

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: .venv/installed
	OMP_WAIT_POLICY=passive $(BIN)/pytest -m slow

ui: .venv/installed
	$(BIN)/rmw ui

bench: .venv/installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv data/home build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --progress-bar off -e '.[test]'
	touch $@
