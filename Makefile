# Everything a fresh machine with python3 and make needs: make demo, make test, make check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
# tests/conftest.py orders the files.
SHARED = -n $(JOBS) --dist loadfile --no-loadscope-reorder
# One thread a process; compiled files are kept even where the environment says not to: each process would compile all.
TESTED = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.PHONY: demo test lint check clean

demo: $(STAMP)  ## fine-tune on real clips in three ways, compare them with the base (6 minutes on 2 cores)
	$(BIN)/entprog demo --out runs/demo

test: $(VENV)/.installed-dev  ## the fast tests (5 to 6 minutes on 2 cores)
	$(TESTED) -m "not slow and not gpu" $(SHARED)

lint: $(VENV)/.installed-dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint  ## lint, types and every test that needs no GPU
	$(TESTED) -m "not gpu" $(SHARED)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
