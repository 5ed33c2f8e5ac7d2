# make setup | demo | test | test-slow | test-all | lint | docs | bench       INSTALLER=pip takes plain pip instead of uv
PYTHON ?= python3
INSTALLER ?= uv
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo-out

# uv does not read pip's settings; pass on the places to find wheels where pip has some.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: setup demo test test-slow test-all lint format docs bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifeq ($(INSTALLER),uv)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode --editable '.[dev]'
else
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
endif
	touch $@

demo: setup
	rm -rf $(DEMO)
	$(BIN)/anovl demo -o $(DEMO)

PYTEST := $(BIN)/python -m pytest
IN_TWO := OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist worksteal
ALONE := tests/cluster tests/interfaces tests/server

# Two processes of one thread each; clusters, kills and figures of memory have the machine for themselves.
test: setup
	$(IN_TWO) -m "not slow" $(COVERAGE)

test-slow: setup
	$(IN_TWO) -m slow $(addprefix --ignore=,$(ALONE))
	$(PYTEST) -m slow $(ALONE)

test-all: COVERAGE := --cov
test-all: test test-slow

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/sphinx-build --quiet --builder html --nitpicky --fail-on-warning --keep-going docs docs/_build

bench: setup
	$(BIN)/python benchmarks/encoder.py
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/adaptation.py
	$(BIN)/python benchmarks/winclip.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/devices.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/synth.py

clean:
	rm -rf $(VENV) $(DEMO) docs/_build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
