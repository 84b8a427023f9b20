PYTHON ?= .venv/bin/python
FAST = tests/test_layers.py tests/graph/test_language.py tests/graph/test_source.py tests/graph/test_diagnostics.py \
  tests/graph/test_schema.py tests/graph/test_passes.py tests/graph/test_parts.py

.PHONY: help fast test all docs

help:  ## List the tasks
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

fast:  ## Lint, types, and tests without torch
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	mkdir -p .mypy && ln -sfn "$(CURDIR)" .mypy/sgd
	MYPYPATH=.mypy $(PYTHON) -m mypy -p sgd.graph -p sgd.nodes
	cd tests && MYPYPATH=../.mypy:../training $(abspath $(shell command -v $(PYTHON))) -m mypy --config-file ../pyproject.toml \
	  --explicit-package-bases --cache-dir ../.mypy_cache/tests .
	$(PYTHON) -m pytest -q $(FAST)

test:  ## Every test but those with the real compiler
	$(PYTHON) -m pytest

all:  ## Everything, in a fresh clone with new virtual environments
	bash .ci/run

docs:  ## Write the pages of docs/reference
	$(PYTHON) docs/generate.py
