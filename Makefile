# Everything runs in a virtual environment made here; the machine needs python3 with venv, and make.
#   make sample    draw posterior samples with the shipped model (CONFIG=... for another preset)
#   make test      the test suite (EXTRAS=dev,convert for the tests that need PyTorch, too)
#   make lint      formatting, lint and types
#   make clean     remove what these targets made

PYTHON ?= python3
CONFIG ?= configs/photo.py
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin

# Linux then gives large arrays large pages. JAX on CPUs allocates its arrays anew in every call, and
# to fault them in page by page can take longer than to compute them.
GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
export GLIBC_TUNABLES

.PHONY: sample test lint clean

sample: $(VENV)/.installed
	$(BIN)/python sample.py $(CONFIG)

test: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp files make an installation happen once per change of pyproject.toml.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-$(EXTRAS): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@ $(VENV)/.installed
