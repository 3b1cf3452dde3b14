# Everything a developer types. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHONS := python3.11 python3.12 python3.13 python3
NEEDED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
INSTALLED := $(VENV)/.installed
ARGS ?=
# processes of `make test` and `make test-all`: a fourth to a third of the time a test waits for a server or a child, so 4 keep two cores busy
WORKERS ?= 4
unexport PYTHONDONTWRITEBYTECODE # set in many containers; without bytecode each process spends seconds to compile imports

.PHONY: help
help: ## What can be made
	@echo "make TARGET [ARGS='…']"
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: install
install: $(INSTALLED) ## An environment in .venv with exactly what requirements.lock names (done by the others, too)

$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo "compiling the forecasting core, once: about 20 s"
	$(BIN)/python -W ignore -m many_models.forecasting.precompile
	touch $@

# uv itself comes from the lock file, too
$(BIN)/uv: | $(BIN)/python
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock \
		| $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r /dev/stdin

# versions that are locked stay (ARGS=--upgrade or ARGS='--upgrade-package NAME' moves them)
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock' $(ARGS)

.PHONY: lock
lock: | $(BIN)/uv ## Write the lock files again after a change of pyproject.toml (ARGS=--upgrade for newer versions)
	$(COMPILE) --all-extras --group dev -o requirements.lock
	$(COMPILE) --extra alerts --extra azure --extra azureml --extra k8s --extra mlflow-server --extra postgres --extra powerbi --extra serve --extra spark --extra telemetry \
		--constraint requirements.lock -o deploy/kubernetes/requirements.lock
	$(COMPILE) --extra serve --extra azure --extra telemetry --constraint requirements.lock -o deploy/serving/requirements.lock
	$(BIN)/uv pip compile deploy/compute/azureml/runner.in --quiet --python-version 3.11 --python-platform linux --generate-hashes \
		--no-annotate --custom-compile-command 'make lock' $(ARGS) -o deploy/compute/azureml/runner.lock
	sed -E '/^(psutil|pydantic|pydantic-core|wrapt)==/,/[^\\]$$/d' requirements.lock | $(BIN)/uv pip compile pyproject.toml \
		deploy/serving/azureml/server.in --quiet --python-version 3.11 --python-platform linux --extra serve --extra azure \
		--constraint - --generate-hashes --no-annotate --custom-compile-command 'make lock' $(ARGS) \
		-o deploy/serving/azureml/requirements.lock

.PHONY: wheel
wheel: install ## The wheel that the images and the pipeline install, in dist
	rm -rf dist
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist
	cp deploy/kubernetes/requirements.lock dist/ # what the pipeline installs to approve: Azure's and PostgreSQL's clients, too

.PHONY: sbom
sbom: install ## What this environment is made of, as a CycloneDX bill of materials, in dist/sbom.json
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --output-reproducible --of JSON -o dist/sbom.json $(BIN)/python

$(BIN)/python:
	@for python in $${PYTHON:-$(PYTHONS)}; do \
		if "$$python" -c '$(NEEDED)' 2>/dev/null; then \
			echo "$$python -m venv $(VENV)"; exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "No Python 3.11, 3.12 or 3.13 with venv among: $${PYTHON:-$(PYTHONS)}. Install one (Debian: python3 python3-venv), or make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1

.PHONY: demo
demo: install ## A made-up grocer's whole day, from source to warehouse (ARGS='--series 50')
	DAGSTER_HOME=$(CURDIR) $(BIN)/many-models demo $(ARGS)

.PHONY: dev
dev: install ## Dagster's UI on this folder's instance
	DAGSTER_HOME=$(CURDIR) $(BIN)/dagster dev -w workspace.yaml $(ARGS)

.PHONY: check
check: install ## Lint, types, imports and fast tests: what pre-commit runs
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line lint types imports fast # the types keep one core busy

.PHONY: lint
lint: install ## Ruff's checks and its formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: install ## Pyright
	$(BIN)/pyright

.PHONY: imports
imports: install ## Imports run one way
	$(BIN)/lint-imports

.PHONY: fast
fast: install ## The tests that take less than about half a second
	$(BIN)/python -m pytest -m "not slow and not long" -n 2 $(ARGS)

TESTS := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=5

.PHONY: test
test: install ## The tests but the long ones
	$(TESTS) -m "not long" $(ARGS)

.PHONY: test-all
test-all: install ## All tests: what CI runs, about 40 minutes on two cores
	$(TESTS) $(ARGS)

FUZZ_SECONDS ?= 15
.PHONY: fuzz
fuzz: install ## Random mutations of every input from outside, FUZZ_SECONDS for each kind; finds go into the corpus
	MANY_MODELS_FUZZ=$(FUZZ_SECONDS) $(BIN)/python -m pytest -q many_models_tests/fuzz -k mutations $(ARGS)

.PHONY: test-tools
test-tools: ## The programs that tests skip without: Chromium, ODBC, PostgreSQL, MariaDB, Java (Debian)
	.ci/tools

.PHONY: bench
bench: install ## Every benchmark, small (ARGS=--json)
	@for file in benchmarks/[a-z]*.py; do \
		echo "== $$file"; $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)" --small $(ARGS); \
	done

.PHONY: format
format: install ## Put the code into ruff's format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: clean
clean: ## Remove the environment and everything that was made
	rm -rf $(VENV) var demo build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
