# `make` alone lists what there is. Everything runs in a virtual environment inside the checkout.
VENV ?= .venv
BIN := $(VENV)/bin
# More for the tool in question, as in: make test ARGS="-k batch -x"
ARGS ?=
MATRIX ?= oldest 5.5 5.6 5.7
TOGETHER ?= 4
SECONDS ?= 60
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-together fmt lint types imports docs bench celery-suite kombu-suite chaos chaos-short fuzz matrix matrix-short ci clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# -- environment -----------------------------------------------------------------------------------
# One stamp for what the demo needs, one for everything: whoever only looks at the demo waits less.
$(BIN)/python:
	@scripts/make-venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --editable '.[sqlalchemy,cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing the library and its tools into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	@touch $@ $(VENV)/.demo

setup: $(VENV)/.dev ## Create .venv and install everything (at once when nothing changed)

# -- seeing it -------------------------------------------------------------------------------------
demo: $(VENV)/.demo ## Import a real file with a real worker; needs Python alone
	@$(BIN)/python -m tasks_examples.import_csv $(ARGS)

bench: $(VENV)/.dev ## Measure against plain Celery, and write benchmarks/results.json
	@$(BIN)/python -m benchmarks $(ARGS)

# -- checking it -----------------------------------------------------------------------------------
test: $(VENV)/.dev ## Run the tests with the servers that are there, or can be started
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.dev ## Run the tests that take long, which `make test` leaves out: many kills, more random sequences
	@$(BIN)/python -m pytest -m "slow and not chaos" $(ARGS)

chaos: $(VENV)/.dev ## Break everything, each promise 50 times (hours); ARGS="--runs 5 --seed N -k batch"
	@$(BIN)/python -m pytest tests/chaos -m chaos -p no:randomly --runs 50 $(ARGS)

chaos-short: $(VENV)/.dev ## The same in its short form (two minutes)
	@$(BIN)/python -m pytest tests/chaos -m "chaos and not slow" -p no:randomly -n 2 --dist loadscope --seed 1 $(ARGS)

fuzz: $(VENV)/.dev ## Give each reader of messages and records what nobody would send, for SECONDS=60 each; needs atheris
	@$(BIN)/python -c 'import atheris' || { echo "make fuzz needs atheris: $(BIN)/python -m pip install atheris" >&2; exit 1; }
	@mkdir -p build && for target in header headers follows parked debt pack row; do echo "== $$target"; \
		$(BIN)/python -m tests.fuzz $$target -max_total_time=$(SECONDS) -artifact_prefix=build/ || exit 1; done

fmt: $(VENV)/.dev ## Format the code, and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

lint: $(VENV)/.dev ## Check style
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.dev ## Check types
	@$(BIN)/mypy

imports: $(VENV)/.dev ## Check that imports point one way
	@$(BIN)/lint-imports

docs: $(VENV)/.dev ## Build the documentation, and run the code in it
	@$(BIN)/sphinx-build -W --keep-going --quiet -b html docs docs/_build/html
	@$(BIN)/python -m pytest -p no:randomly --doctest-modules --ignore-glob='*/migrations/*' celery_laravel docs README.md $(ARGS)
	@echo "Built: docs/_build/html/index.html"

matrix: $(VENV)/.dev ## Run the tests that depend on Celery with each version, and with the oldest of everything
	@PYTEST_ARGS="$(ARGS)" scripts/matrix $(MATRIX)

matrix-short: $(VENV)/.dev
	@PYTEST_ARGS="$(ARGS)" scripts/matrix --short $(MATRIX)

celery-suite: ## Run Celery's own tests with Job as the task class (13 minutes)
	@mkdir -p build && SUITE_WORK=build/celery-suite tests/celery_suite/run.sh unit celery_laravel:Job .
	@SUITE_WORK=build/celery-suite tests/celery_suite/run.sh integration celery_laravel:Job .

kombu-suite: $(VENV)/.dev ## Run kombu's own tests on the Redis and the database broker (5 minutes)
	@scripts/kombu-suite $(ARGS)

# What is quick comes first. The rest waits for processes more than it computes, so it runs side by side; each part is
# shown when it has ended, the tests last, as they take the longest.
ci: lint types imports ## What the pipeline runs
	@$(MAKE) --no-print-directory --keep-going --jobs 2 --output-sync=target docs matrix-short chaos-short test-together

# The tests have areas of their own on the servers, so several may run at once.
test-together: $(VENV)/.dev
	@$(BIN)/python -m pytest -n $(TOGETHER) $(ARGS)

clean: ## Remove what these commands made, the virtual environment included
	rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find celery_laravel tests benchmarks tasks_examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
