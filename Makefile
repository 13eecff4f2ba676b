# Two commands for a fresh clone:
#   make ask PROMPT="What is the capital of France?"     sets everything up and answers
#   make test                                            sets everything up and tests
# The rest is for people who work on it: lint, bench, deb, clean. PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MODEL  ?= smollm2-135m
PROMPT ?= What is the capital of France?
# pip talks on a terminal, where somebody waits, and is quiet elsewhere.
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --use-pep517 $(if $(MAKE_TERMOUT),,--quiet)
# Further arguments for pytest: make test TESTS="tests/core -x"
TESTS  ?=

export PROMPT PYTHON
unexport PYTHONPATH

.PHONY: ask test lint format bench deb setup clean help
.DEFAULT_GOAL := help

help:
	@sed -n '2,4s/^# *//p' Makefile

# The environment is made anew when the dependencies change, and completed when that was interrupted.
$(VENV)/.run: pyproject.toml packaging/prerequisites
	@packaging/prerequisites run
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "Installing nsorch and the runtimes it needs (about 250 MB to fetch the first time) …" >&2
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	@packaging/prerequisites test
	@echo "Installing what the tests need …" >&2
	@$(PIP) --editable '.[dev]'
	@touch $@

setup: $(VENV)/.run

ask: $(VENV)/.run
	@$(BIN)/nsorch model pull $(MODEL)
	@$(BIN)/nsorch ask -m $(MODEL) -- "$$PROMPT"

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

deb:
	packaging/deb/build

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis
