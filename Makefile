# Each target makes what it needs: a fresh clone, Python >= 3.11 and pip are enough.
PYTHON ?= python3
BIN := .venv/bin
THREADS := OMP_NUM_THREADS=1
PYTEST := $(THREADS) $(BIN)/python -m pytest

.PHONY: quickstart tutorial test test-all test-slow lint docs format clean

.venv/made: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[offline]"
	touch $@

.venv/made-test: .venv/made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# The main job: single-task networks beside one multi-task network, a table and a report, in minutes.
quickstart: .venv/made
	$(BIN)/plait quickstart

# The tutorial's own commands, from a folder of pictures to an export, with small numbers.
tutorial: .venv/made-test
	$(THREADS) $(BIN)/python -m tests.pages docs/tutorial.md

lint: .venv/made-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Lint, types and the fast suite.
test: lint
	$(PYTEST) -n 2 --dist loadfile -m "not slow"

# Kill tests, several processes, the browser, whole grids.
test-slow: .venv/made-test
	$(PYTEST) -n 2 --dist loadfile -m slow

test-all: test test-slow

docs: .venv/made-test
	$(BIN)/mkdocs build --strict

format: .venv/made-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv site build dist
