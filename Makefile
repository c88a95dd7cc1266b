# Two commands on a fresh machine with Python 3.11+ and make: `make search` and `make test`.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= conf/mbv2_space.yaml
# Of the cluster: its number of workers (as many as there are, else 2), and what a search on it
# changes, as ARGS="trials=48".
WORKERS ?=
ARGS ?=
# Optional: an index for another torch build, e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# One more than there are cores, since many tests wait for processes; a module on one; those that wait
# most first, so that no core idles at the end.
TESTERS := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PARALLEL = -n $(TESTERS) --dist loadscope --no-loadscope-reorder
TESTS = tests/e2e tests/faults tests/contracts tests
PIP_ARGS = -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# The tests start hundreds of processes: where byte code may not be kept, each of them compiles nasctl.
test test-all: export PYTHONDONTWRITEBYTECODE =

.PHONY: search test test-all test-compose lint clean cluster-up cluster-down cluster-search

search: $(VENV)/.installed
	$(VENV)/bin/nasctl search $(CONFIG)

test: lint
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not slow and not gpu and not alone" $(TESTS)
	$(VENV)/bin/python -m pytest -m "alone and not slow and not gpu" $(TESTS)

test-all: lint
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not alone" $(TESTS)
	$(VENV)/bin/python -m pytest -m alone $(TESTS)

# The cluster with real containers; says so, and succeeds, where no engine can be had. SHORT=1: the
# part that CI runs.
test-compose:
	PYTHON=$(firstword $(wildcard $(VENV)/bin/python) $(PYTHON)) tests/e2e/compose.sh

cluster-up:
	docker/cluster.sh launch $(WORKERS)

cluster-down:
	docker/cluster.sh down

cluster-search:
	docker/cluster.sh search $(CONFIG) $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) -e '.[cluster,dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
