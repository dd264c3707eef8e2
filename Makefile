# Every target sets up its own virtual environment first: Python 3.11 or newer is all that a machine needs.
#   make PYTHON=/path/to/python3.12 …   takes that interpreter
#   make test ARGS="-k patch"           hands words on to the command

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types contracts docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## a virtual environment in .venv with everything in it

demo: $(READY)  ## plant a backdoor in a small model, measure it, see whether the distances give it away
	@$(BIN)/orthogon demo $(ARGS)

test: $(READY)  ## all tests, on up to eight cores
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(READY)  ## style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## static types
	@$(BIN)/basedpyright

contracts: $(READY)  ## direction of imports
	@$(BIN)/lint-imports

docs: $(READY)  ## documentation in site/, warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove the environment, caches and built files; runs/ stays
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Candidates are run, not just looked up: a version manager's stand-in exists for versions that are not installed.
$(READY): pyproject.toml
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		found=; bare=; \
		for python in $(CANDIDATES); do \
			"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
			if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; \
			bare=$${bare:-$$python}; \
		done; \
		if [ -z "$$found" ] && [ -n "$$bare" ]; then \
			echo "$$bare cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
			echo "Install them (on Debian and Ubuntu: the package python3-venv), then give the same command again." >&2; \
			exit 1; \
		elif [ -z "$$found" ]; then \
			echo "Python 3.11 or newer is needed and none was found (tried: $(CANDIDATES))." >&2; \
			echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
			exit 1; \
		fi; \
		echo "making $(VENV) with $$found"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@echo "installing orthogon and its tools into $(VENV); the first time, PyTorch makes this take some minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	@touch $@
