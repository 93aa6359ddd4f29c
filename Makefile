# Everything a fresh machine needs: `make demo` runs the main job, `make test` passes the tests.
# The toolchain (llama.cpp) is built on first use into GGUFKIT_CACHE, outside this checkout.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Byte code is made on first use and kept: installing need not make it for all that is never used.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types docs pytest format clean

demo: $(VENV)/.installed
	$(BIN)/ggufkit demo

test: lint types docs pytest

pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --nbmake -m "not alone" $(PYTEST)
	$(BIN)/python -m pytest -m alone $(PYTEST)

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry ggufkit

types: $(VENV)/.installed
	$(BIN)/mypy

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing ggufkit and all its extras into $(VENV): some minutes."
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[all,dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache
