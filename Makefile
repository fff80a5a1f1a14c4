# LiDistill. `make help` says what there is; every target sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORLD  := $(BIN)/python prepare_synthetic.py data/synthetic/nuscenes --scenes 6 --keyframes 10 --workers 2
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test sanitize lint format bench doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo "after 'source .venv/bin/activate', each with --help:"
	@echo "  python -m core.check_data CONFIG             check a data set"
	@echo "  python train_teacher.py CONFIG               train a network"
	@echo "  python train_student.py CONFIG               train a student of it"
	@echo "  python evaluate.py predict CONFIG SCANS      label scans of your own"

setup: $(READY) ## create .venv, install the pinned packages, compile the kernels

SPTR   := third_party/SparseTransformer
$(READY): requirements.txt constraints.txt $(wildcard csrc/* csrc/cuda/* $(SPTR)/*.* $(SPTR)/sptr/csrc/* $(SPTR)/sptr/csrc/cuda/*) core/sparse/build.py core/sparse/build_cuda.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 13) else "LiDistill needs Python 3.11 or 3.12; this is %d.%d. Set PYTHON=python3.11" % v[:2])'
	@if command -v uv >/dev/null 2>&1; then \
	  { [ -x $(BIN)/python ] || uv venv --quiet --python $(PYTHON) $(VENV); } && \
	  export VIRTUAL_ENV=$(VENV) && uv pip install --quiet -r requirements.txt -c constraints.txt && \
	  uv pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat -e $(SPTR); \
	else \
	  { [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); } && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat -e $(SPTR); \
	fi
	@$(BIN)/python -c 'from core.sparse.build import build; build()'
	@$(BIN)/python -m sptr.build >/dev/null
	@touch $@

demo: setup ## from nothing to teacher, student and report, without GPU or data set
	@$(BIN)/python -m core.engine.demo

test: setup ## all CPU tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

sanitize: setup ## the kernels' tests under address and undefined-behaviour sanitizers
	@OMP_NUM_THREADS=2 $(BIN)/python tests/sanitize.py $(PYTEST)

fuzz: setup ## damage every kind of file that is read, some thousand times; each must be refused or read right
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz

lint: setup ## style, layers and cycles, types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/mypy

format: setup ## apply the style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: setup ## speed of the sparse engine and of data loading
	@$(BIN)/python benchmarks/sparse_conv.py
	@$(WORLD)
	@$(BIN)/python benchmarks/data_loading.py configs/synthetic/minkunet_demo.yaml

doctor: setup ## what is installed, compiled, missing or wrong, and the cure
	@$(BIN)/python -m core.doctor

clean: ## remove the environment, compiled kernels and caches (data and runs stay)
	rm -rf $(VENV) core/_lib $(SPTR)/sptr/_lib build/sanitized .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
