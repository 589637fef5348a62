# make app    set up .venv if needed and open the app on the sample   (PORT=8600 picks the port)
# make test   set up .venv if needed, then check and run all tests
# make check  ruff and mypy --strict;   make fix  what ruff can repair itself
#
# PYTHON=python3.12       the interpreter for .venv, 3.11 or newer
# TORCH_INDEX=URL         an extra package index to take torch from (README, "Which torch")

PYTHON ?= python3
TORCH_INDEX ?=
PORT ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.qviz-ready

.DEFAULT_GOAL := help
.PHONY: help setup app browser check fix test

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

setup: $(READY)

# The stamp is newer than what decides the installed packages, so a second run installs nothing.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON): not found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON): is $$($(PYTHON) -V 2>&1), qviz needs 3.11 or newer. Name another: make PYTHON=python3.12"; exit 2; }
	@echo "Setting up $(VENV): a few minutes, only this time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --constraint constraints.txt --editable '.[dev]'
	@touch $@

app: $(READY)
	$(BIN)/qviz app $(if $(PORT),--port $(PORT))

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests of the app click through it in Chromium; without one, and without the right to install one,
# they are skipped and say so.
BROWSERS := chromium chromium-browser google-chrome
browser:
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing Chromium: only this time."; \
	  apt-get update -qq >/dev/null 2>&1; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null 2>&1 \
	    || echo "Chromium could not be installed: the tests that need it will be skipped."; \
	else \
	  echo "No Chromium: the tests that need it will be skipped. Install it: sudo apt-get install chromium"; \
	fi

# One thread per worker: two workers with two threads each only get in each other's way.
test: check browser
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
