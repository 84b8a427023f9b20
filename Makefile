PYTHON ?= .venv/bin/python
# Tests that need no torch; the plugin `helpers.without_torch` refuses its import.
FAST = tests/test_layers.py tests/docs \
  $(addprefix tests/graph/test_, diagnostics.py language.py observers.py parts.py passes.py renames.py report.py schema.py \
    source.py typevars.py) \
  tests/nodes/test_library.py

.PHONY: help fast test all bench docs

help:  ## List the tasks
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/'

fast:  ## Lint, types, and tests without torch; under a minute
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	mkdir -p .mypy && ln -sfn "$(CURDIR)" .mypy/sgd
	MYPYPATH=.mypy $(PYTHON) -m mypy -p sgd.graph -p sgd.nodes
	cd tests && MYPYPATH=../.mypy:../training $(abspath $(shell command -v $(PYTHON))) -m mypy --config-file ../pyproject.toml \
	  --explicit-package-bases --cache-dir ../.mypy_cache/tests .
	PYTHONPATH=tests$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) -m pytest -p helpers.without_torch -n 0 -q \
	  -m 'not slow and not compiles and not long' $(FAST)

test:  ## The tests, without slow ones and those with the real compiler
	$(PYTHON) -m pytest

all:  ## Everything, in a fresh clone with new virtual environments
	bash .ci/run

bench:  ## Measure the executor and the command line
	OMP_NUM_THREADS=1 $(PYTHON) tests/benchmarks/overhead.py

docs:  ## Write the pages of docs/reference
	$(PYTHON) docs/generate.py
