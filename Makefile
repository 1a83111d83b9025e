# `make` prints the targets. Every target makes what it needs; nothing has to be set up by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINIMAL := .venv-torch-only
TABLE ?=
TUNE ?= --jobs 2
ABLATE ?= --jobs 2
FIGURES ?=
THEOREMS ?=
BENCH ?=
OUT ?= build/gpu

.PHONY: help setup check fix test test-gpu test-minimal table tune ablations figures theorems report bench clean
.DEFAULT_GOAL := help

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

setup: $(READY)  ## create the environment and install everything into it

check: $(READY)  ## format, lint, types: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(READY)  ## apply the formatter and the linter's safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY)  ## every test, offline
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-gpu: $(READY)  ## the tests that need a GPU, then the speed of its kernels; OUT=folder of the results
	$(BIN)/python -m pytest -m gpu tests/test_gpu.py
	$(BIN)/python -m benchmarks.speed --device cuda --full --out $(OUT)/float32
	$(BIN)/python -m benchmarks.speed --device cuda --full --dtype bfloat16 --no-step --out $(OUT)/bfloat16

test-minimal:  ## import and use the package where torch alone is installed
	$(PYTHON) -m venv --clear $(MINIMAL)
	$(MINIMAL)/bin/python -m pip install --quiet .
	cd $(MINIMAL) && bin/python ../tests/minimal.py

table: $(READY)  ## pre-train, evaluate and compare every method of Table 1; TABLE='--help' for its options
	$(BIN)/python -m benchmarks.table1 $(TABLE)

tune: $(READY)  ## give every method of Table 1 the same search for its settings; TUNE='--help' for its options
	$(BIN)/python -m benchmarks.table1.tuning $(TUNE)

ablations: $(READY)  ## change one thing at a time in the rows of VICReg and BYOL; ABLATE='--help' for its options
	$(BIN)/python -m benchmarks.table1.ablations $(ABLATE)

figures: $(READY)  ## recompute the paper's figures; FIGURES='1 --help' for its options
	$(BIN)/python -m benchmarks.figures $(FIGURES)

theorems: $(READY)  ## recompute the paper's theorems on small networks: a minute; THEOREMS='1 --help' for its options
	$(BIN)/python -m benchmarks.theorems $(THEOREMS)

report: $(READY)  ## write docs/report.md from the newest rows in benchmarks/results
	$(BIN)/python -m benchmarks.report

bench: $(READY)  ## time and memory beside lightly and others; BENCH='--full' for every size
	$(BIN)/python -m benchmarks.speed $(BENCH)

clean:  ## remove the environments and every cache
	rm -rf $(VENV) $(MINIMAL) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
