# Each target does its own set-up: a virtual environment in .venv, the locked requirements, this package.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST_ARGS ?=

.PHONY: help setup demo test test-all test-integrations lint package bench lock clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with the locked requirements and this package

$(READY): requirements.lock pyproject.toml setup.py recorder/one_pass.c recorder/one_pass_values.h
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, found {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## record SGD, Adam and Lion on handwritten digits and write demo/report.html
	$(BIN)/traj demo --output demo --force

# Two processes, each with one thread of torch: threads that spin between operations would only hold up the other one.
test: export OMP_NUM_THREADS = 1
test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadscope $(PYTEST_ARGS)

test-all: $(READY)  ## run the tests, the slow ones too
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-integrations: $(READY)  ## install Lightning and Transformers, and run the tests in them
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock \
		'lightning>=2.2' 'transformers>=4.46' 'accelerate>=1.0'
	$(BIN)/python -m pytest tests/integrations $(PYTEST_ARGS)

# mypy finds a package by its folder, and package-dir maps four of ours from elsewhere: it sees them through links.
TYPED := build/typed/trajectory_tools
lint: $(READY)  ## check format, style and types
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	@rm -rf build/typed && mkdir -p $(TYPED)
	@ln -s $(CURDIR)/trajectory_tools/* $(CURDIR)/recorder $(CURDIR)/cli $(CURDIR)/data $(CURDIR)/reports $(TYPED)
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p trajectory_tools

# Built, installed and used away from the checkout, so that nothing is found by accident.
package: $(READY)  ## build sdist and wheel, and try the wheel in a new environment
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --sdist --outdir dist .
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz
	@set -e; away=$$(mktemp -d); trap 'rm -rf "$$away"' EXIT; uv=$(CURDIR)/$(BIN)/uv; wheel=$$(ls $(CURDIR)/dist/*.whl); \
	$(PYTHON) -m venv "$$away/venv"; cd "$$away"; \
	$$uv pip install --quiet --python venv/bin/python --constraint $(CURDIR)/requirements.lock "$$wheel"; \
	venv/bin/traj --version; \
	venv/bin/python $(CURDIR)/.ci/import_all.py; \
	venv/bin/traj record digits-mlp --steps 3 -o run; venv/bin/traj report run -o report.html

bench: $(READY)  ## measure what the README quotes
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

lock:  ## choose new versions for requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --upgrade --quiet --output-file requirements.lock

clean:  ## remove everything that make made
	rm -rf $(VENV) build dist *.egg-info recorder/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
