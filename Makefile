# Each target makes the environment when it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export OMP_NUM_THREADS ?= 1
VARIANT ?= cpu
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' pipeline/__init__.py)
COMMIT = $(shell git rev-parse HEAD)$(shell git diff --quiet HEAD || echo -modified)
RAY_SCHEMA = .venv/lib/python3*/site-packages/ray/autoscaler/ray-schema.json

.PHONY: quickstart test test-hosts check check-infra bench docs image lock environment clean

environment: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt -r requirements-dev.txt
	touch $(STAMP)

quickstart: $(STAMP)  ## digits, twelve rows, all stages, a table and an MLflow link
	$(BIN)/python -m pipeline run grids/quickstart.yaml

test: $(STAMP)  ## every test, the slow ones too, but those of test-hosts
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile
	$(BIN)/python -m pytest -m "slow and not hosts"

test-hosts: $(STAMP)  ## hosts that are killed and cut off: ten minutes, needs root and iproute2
	$(BIN)/python -m pytest -m hosts

check: $(STAMP) check-infra  ## format, lint, types, import direction, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

check-infra: $(STAMP)  ## container file, compose files, cluster files, manifests, shell scripts
	$(BIN)/hadolint infra/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec infra/compose*.yaml
	$(BIN)/check-jsonschema --schemafile $(RAY_SCHEMA) infra/ray-cluster.yaml
	$(BIN)/yamllint --strict infra k8s
	$(BIN)/shellcheck infra/*.sh
	find k8s -name '*.yaml' -not -path '*/overlays/*' -exec $(BIN)/kubernetes-validate --strict --no-warn --quiet {} +

bench: $(STAMP)  ## side by side measurements; one JSON line each
	for script in benchmarks/*.py; do PYTHONPATH=. $(BIN)/python $$script; done

docs: $(STAMP)  ## fill the tables of the documentation from the code
	$(BIN)/python -m pipeline.grid.reference README.md docs

image:  ## pipeline:<version>-cpu by Docker; VARIANT=cuda for GPUs
	docker build --file infra/Dockerfile --tag pipeline:$(VERSION)-$(VARIANT) \
		--build-arg VARIANT=$(VARIANT) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) .

lock: $(STAMP)  ## pin the packages of the image again
	$(BIN)/python infra/lock.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
