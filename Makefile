# `make run` and `make test` set everything up themselves; nothing outside this folder is changed
# but the data cache (~/.cache/autoresearch).

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-sky check install clean

help:
	@echo "make run     a real study on this machine's CPU, 5 to 10 minutes after installation"
	@echo "make test    every test this machine can run"
	@echo "make check   lint, formatting, types, import rules"

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable ".[train,sweep,plot,dev]"
	touch $@

run: install
	$(BIN)/autoresearch run

test: install
	$(BIN)/python -m pytest -q -n 4 --dist loadfile -m "not slow"
	$(BIN)/python -m pytest -q -n auto -m "slow and core" -rs
	$(MAKE) --jobs=2 --output-sync=target test-slow test-sky
	$(BIN)/python -m pytest -q -m alone -rs

test-slow:
	$(BIN)/python -m pytest -q -n auto -m "slow and not core and not sky and not alone" -rs

test-sky:  # beside the slow ones: it mostly waits
	$(BIN)/python -m pytest -q -m "sky and not alone" -p no:randomly -rs

check: install
	$(BIN)/ruff check -q .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy
	cd train && ../$(BIN)/mypy --config-file= --python-version 3.11 --ignore-missing-imports --check-untyped-defs *.py
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv .autoresearch results.tsv progress.png
