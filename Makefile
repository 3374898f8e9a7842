# Two commands do all: `make demo` and `make test`. Both make the environment first.
PYTHON ?= python3.11
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test lint clean

.venv/run: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/dev: .venv/run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: .venv/run
	$(BIN)/snakemake --cores 2 --quiet all -- demo

# All tests. A module runs in one worker, for its fixtures; modules with slow tests come first.
# A quick selection: .venv/bin/pytest -m "not slow"
test: .venv/dev
	$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

lint: .venv/dev
	$(BIN)/ruff check efface scripts tests benchmarks docs
	$(BIN)/ruff format --check --quiet efface scripts tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules

clean:
	rm -rf demo .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis
