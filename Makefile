# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint bench setup

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/polymode doctor --compile
	touch $@

demo: setup
	$(BIN)/polymode generate "a mushroom" --method direct --out demo/mushroom-$$(date +%Y%m%d-%H%M%S)

# two processes of one thread each: faster than one of two threads on two cores, and no threads that spin against each other
test: setup
	$(BIN)/python -m tests.chromium
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/codespell polymode app guidance renderers threestudio_ext tests benchmarks docs examples README.md CONTRIBUTING.md CHANGELOG.md

bench: setup
	$(BIN)/python -m benchmarks.prior
	$(BIN)/python -m benchmarks.volume
	$(BIN)/python -m benchmarks.raster
