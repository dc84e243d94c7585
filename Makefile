# People and CI call the same targets. Each target makes the .venv that it needs.
# A target's last line on stdout is its result. Notes go to stderr.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.SILENT:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo run test systemd-test check fmt crash crash-selftest soak bench bench-quick plots pictures manual clean

help: ## list the targets
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

demo: $(VENV)/.made-daemon ## show how a killed session is recovered
	$(BIN)/edi-checkpoint demo

run: $(VENV)/.made-daemon ## run the daemon in the foreground
	$(BIN)/edi-checkpointd run

test: $(VENV)/.made-dev ## run the tests, on all cores
	$(BIN)/python -m compileall -q client daemon tests
	$(BIN)/python -m pytest --numprocesses=$$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist=worksteal  # one more: tests also wait

systemd-test: $(VENV)/.made-dev ## test the service with a real systemd, in a container (root)
	$(BIN)/python tests/systemd/machine.py

check: $(VENV)/.made-dev ## check format, style, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	echo 'check: ok'

fmt: $(VENV)/.made-dev ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

crash: $(VENV)/.made-dev ## kill processes at every crash point and at random, cut the power, and count losses
	PYTHONPATH=tests $(BIN)/python -m crash

soak: $(VENV)/.made-dev ## run for ten minutes with kills and a full disk; SECONDS=60 shortens it
	PYTHONPATH=tests $(BIN)/python -m crash.soak

crash-selftest: $(VENV)/.made-dev ## remove one safeguard at a time, and check that the crash tests notice
	PYTHONPATH=tests $(BIN)/python -m crash.selftest

bench: $(VENV)/.made-bench ## measure all figures with floors and peers: seven minutes on an idle machine
	$(BIN)/python bench/run.py

bench-quick: $(VENV)/.made-dev ## measure the main figures in a minute
	$(BIN)/python bench/run.py --quick

plots: $(VENV)/.made-bench ## draw the growth figures from the results in bench/results
	$(BIN)/python bench/plots.py

pictures: $(VENV)/.made-dev ## draw the pictures of the README again
	$(BIN)/python docs/pictures/make.py
	echo 'pictures: drawn'

manual: $(VENV)/.made-dev ## make man pages and completions from the commands, docs/api.md from the docstrings
	$(BIN)/python docs/manual/make.py
	$(BIN)/python docs/api/make.py
	echo 'manual: made'

clean: ## remove everything that these targets made, also .venv
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results/latest.json
	find client daemon tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment, made in steps. A stamp file marks a finished step; a change of pyproject.toml repeats the step.
$(VENV)/.made:
	command -v '$(PYTHON)' >/dev/null \
	  || { echo 'no $(PYTHON) found: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo '$(PYTHON) is too old: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo 'install the Debian package python3-venv' >&2; exit 1; }
	echo 'making $(VENV), once; this takes a minute' >&2
	'$(PYTHON)' -m venv $(VENV)
	touch $@

$(VENV)/.made-daemon: pyproject.toml | $(VENV)/.made
	$(PIP) '.[daemon]'
	touch $@

$(VENV)/.made-dev: pyproject.toml | $(VENV)/.made
	$(PIP) '.[dev]'
	touch $@ $(VENV)/.made-daemon

$(VENV)/.made-bench: $(VENV)/.made-dev
	$(PIP) '.[bench]'
	touch $@
