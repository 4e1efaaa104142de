PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check soak interop bench clean

demo: $(READY)  ## install, then make a small dataset and take it all the way to batches
	$(BIN)/python examples/demo.py demo-out

test: $(READY)  ## all tests but the slow ones
	$(BIN)/python -m pytest -n 2

check: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(READY)  ## the slow tests
	$(BIN)/python -m pytest -m soak

interop:  ## other libraries over our shards, with those that `make test` has not
	test -x .venv-interop/bin/python || $(PYTHON) -m venv .venv-interop
	.venv-interop/bin/python -m pip install --quiet --editable '.[dev]' megatron-energon 'webdataset==0.2.86'
	.venv-interop/bin/python -m pytest -rs tests/load

bench: $(READY)  ## every measurement that needs no GPU, in short
	for name in decode pictures encode encode_bound memory prepare pack many load access scale; do \
		$(BIN)/python bench/$$name.py --quick || exit 1; done

clean:
	rm -rf $(VENV) .venv-interop demo-out train-out

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)
