# Everything runs in ./.venv, which the first target that needs it makes.
#   make demo    install, register a pair with a known truth, leave pictures in demo_output/
#   make test    linters, types, floors, tests and doctests
#   make test-browser  the pages and the viewer in headless Chromium
#   make bench   measure against other tools on the images in $REGISTA_DATA (default ../shared/data)
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
THREADS ?= 2
PYTEST_FLAGS ?= --durations=10
BENCH_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-browser lint format bench docs docs-serve clean

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Regista needs Python 3.11 or newer; got $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/.installed-learn: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,learn]"
	@touch $@

$(VENV)/.installed-peers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,peers]"
	@touch $@

$(VENV)/.installed-notebook: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,notebook]"
	@touch $@

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/regista demo -o demo_output
	@echo "Outputs: $(CURDIR)/demo_output (report.html first: open it in a browser)"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(VENV)/.installed-learn lint
	$(BIN)/python -m pytest -n $(THREADS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

test-browser: $(VENV)/.installed-notebook
	REGISTA_CHROMIUM=$${REGISTA_CHROMIUM:-auto} $(BIN)/python -m pytest tests/reporting/test_*_browser.py

bench: $(VENV)/.installed-peers
	$(BIN)/python benchmarks/run_all.py --threads $(THREADS) $(BENCH_FLAGS)

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.installed-docs
	$(BIN)/mkdocs serve

clean:
	rm -rf build dist site demo_output .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
