# Each target makes the environment when it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export OMP_NUM_THREADS ?= 1

.PHONY: quickstart test check bench docs environment clean

environment: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -r requirements-dev.txt
	touch $(STAMP)

quickstart: $(STAMP)  ## digits, twelve rows, all stages, a table and an MLflow link
	$(BIN)/python -m pipeline run grids/quickstart.yaml

test: $(STAMP)  ## every test, the slow ones too
	$(BIN)/python -m pytest

check: $(STAMP)  ## format, lint, types, import direction, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow"

bench: $(STAMP)  ## side by side measurements; one JSON line each
	for script in benchmarks/*.py; do PYTHONPATH=. $(BIN)/python $$script; done

docs: $(STAMP)  ## fill the tables of the documentation from the code
	$(BIN)/python -m pipeline.grid.reference README.md docs

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
