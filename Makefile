# The few commands that developers and CI share. `make` alone lists them.
# `.venv` is made once and reused; it is brought up to date when pyproject.toml or constraints.txt changes.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.calotype-installed
BENCH  := $(VENV)/.calotype-bench-installed
# Tried in this order; `make PYTHON=/path/to/python env` asks for one in particular.
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Polyaxon's client asks for a Jinja2 below 3.1.5, which has known holes; it works with the one that is pinned.
POLYAXON := polyaxon traceml hypertune clipped vents aiofiles kubernetes oauthlib orjson parsimonious pytz regex \
    requests-oauthlib requests-toolbelt sentry-sdk websocket-client durationpy
# Handed on to pytest or the benchmark: make tests ARGS="-k journal"
ARGS   ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env train tests tests-long debian guarantees check format clear bench-loop bench-data bench-scale

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

env: $(STAMP)  ## make .venv (once) and install Calotype with its tools into it

train: env  ## train the default experiment (digits, embedded data), then verify it quickly
	$(BIN)/calotype train experiment=digits
	$(BIN)/calotype verify --quick last

tests: env  ## the whole suite but the tests marked long
	$(BIN)/python -m pytest -n 2 -m "not long" $(ARGS)

tests-long: env  ## every test; one skipped for want of something installable fails
	$(BIN)/python -m pytest -n 2 -m "" -rs --no-skips $(ARGS)

debian:  ## install the Debian packages of some long tests: Slurm, iproute2 (needs root)
	@for program in sbatch slurmctld slurmd munged ip; do \
	    PATH="$$PATH:/usr/sbin:/sbin" command -v $$program >/dev/null || \
	        exec apt-get install -y --no-install-recommends slurm-wlm munge iproute2; \
	done

guarantees: env  ## run the tests that hold Calotype to its promises, write docs/guarantees.md
	$(BIN)/python -m pytest -n 2 -m guarantee --write-guarantees=docs/guarantees.md $(ARGS)

check: env  ## lint, format, strict types, law of imports, sizes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: env  ## sort imports and format
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

bench-loop: $(BENCH)  ## microseconds per step beside a bare loop, ignite, accelerate and Lightning
	$(BIN)/python -m benchmarks.bench_loop $(ARGS)

bench-scale: env  ## seconds per step of one and two processes beside plain PyTorch and DDP
	$(BIN)/python -m benchmarks.bench_scale $(ARGS)

bench-data: env  ## images a second per core from JPEG to batch beside torchvision and timm
	$(BIN)/python -m benchmarks.bench_data $(ARGS)

clear:  ## remove caches and build leftovers; keeps .venv and runs
	rm -rf .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info
	find src tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt Makefile | $(BIN)/python
	@echo "installing Calotype into $(VENV); the first time this fetches torch and takes minutes"
	$(INSTALL) -e '.[dev]'
	$(INSTALL) --no-deps $(POLYAXON)
	@touch $@

$(BENCH): $(STAMP)
	$(INSTALL) -e '.[bench]'
	@touch $@

$(BIN)/python:
	@for python in $(PYTHONS); do \
	    if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	        echo "creating $(VENV) with $$($$python --version)"; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "Calotype needs Python 3.11, 3.12 or 3.13 with its venv module; tried: $(PYTHONS)." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python env" >&2; \
	exit 2
