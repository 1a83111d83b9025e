# `make` prints the targets. Every target makes what it needs; nothing has to be set up by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINIMAL := .venv-torch-only
TABLE ?=
TUNE ?= --jobs 2
ABLATE ?= --jobs 2
ENTROPIES ?= --epochs 6 --jobs 2
FIGURES ?=
THEOREMS ?=
BENCH ?=
VERSIONS ?= 2.8 2.11 newest
PYTHONS ?=
KEEP ?=
FUZZ_SEED := $(or $(FUZZ_SEED),$(shell date +%s))
FUZZ_CASES ?= 100000
FUZZ_NAMES ?= vicreg variance_covariance log_det pairwise quadratic renyi sigreg koleo spacings
MUTANTS ?=
KILLS ?=
OUT ?= build/gpu
REPOSITORY ?=
# the GPU targets use PYTHON unchanged if you set it, and the Python of the environment otherwise
GIVEN := $(filter-out file,$(origin PYTHON))
GPU_PYTHON := $(if $(GIVEN),$(PYTHON),$(BIN)/python)
GPU_READY := $(if $(GIVEN),,$(READY))
# with pytest-xdist the GPU tests run in as many processes as there are cores, minus two
WORKERS = $(shell $(GPU_PYTHON) -c "import os, xdist; print('-n', max(os.cpu_count() - 2, 1))" 2>/dev/null)
GPU_PYTEST = OMP_NUM_THREADS=1 $(GPU_PYTHON) -m pytest -m gpu tests/test_gpu.py $(WORKERS)
SPEED := IT_LOSSES_SELF_TEST=error $(GPU_PYTHON) -m benchmarks.speed --device cuda --tested --seconds 0.5
# files run in the order of their names: sorted by number of tests, those with few long ones would run last, on one core
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup check fix test test-fast fuzz mutants kills test-versions test-gpu test-gpu-full test-minimal
.PHONY: table tune ablations entropies figures theorems report bench docs dist clean
.DEFAULT_GOAL := help

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml
	.ci/environment $(PYTHON) $(VENV) --editable '.[dev]'
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
	$(PYTEST)

test-fast: $(READY)  ## the tests to run after every change, under 3 minutes
	$(PYTEST) -m "not slow"

fuzz: $(READY)  ## try 100,000 hostile inputs, and 10,000 calls of each objective: half an hour; FUZZ_SEED=1 repeats a run
	@echo FUZZ_SEED=$(FUZZ_SEED)
	FUZZ_SEED=$(FUZZ_SEED) FUZZ_CASES=$(FUZZ_CASES) FUZZ_NAMES="$(FUZZ_NAMES)" $(PYTEST) tests/test_fuzz.py
	FUZZ_CALLS=10000 $(PYTEST) tests/test_public.py -k memory

mutants: $(READY)  ## change the code in one place at a time to see a test fail: hours; MUTANTS='--sample 50 kernels/log_det.py'
	$(BIN)/python tests/mutants.py $(MUTANTS)

kills: $(READY)  ## kill and resume Table 1 and its search, 20 times each: half an hour; KILLS='--kills 5 --seed 1'
	$(BIN)/python tests/kills.py $(KILLS)

test-versions:  ## the core tests on other versions of torch and Python; VERSIONS='2.8 newest' PYTHONS='3.10 3.13' KEEP=--keep
	$(PYTHON) tests/versions.py --torch $(VERSIONS) $(if $(PYTHONS),--python $(PYTHONS)) $(KEEP)

test-minimal:  ## import and use the package where torch alone is installed
	rm -rf $(MINIMAL)
	.ci/environment $(PYTHON) $(MINIMAL) .
	cd $(MINIMAL) && bin/python ../tests/minimal.py

test-gpu: $(GPU_READY)  ## tests and speed on a GPU; PYTHON=python3 uses that Python unchanged, OUT=folder takes the results
	$(GPU_PYTEST)
	$(SPEED) --dtype float32 bfloat16 --out $(OUT)

test-gpu-full: $(GPU_READY)  ## like test-gpu, with the speed at every size
	$(GPU_PYTEST)
	$(SPEED) --seconds 2 --full --dtype float32 bfloat16 --out $(OUT)

table: $(READY)  ## pre-train, evaluate and compare every method of Table 1; TABLE='--help' for its options
	$(BIN)/python -m benchmarks.table1 $(TABLE)

tune: $(READY)  ## give every method of Table 1 the same search for its settings; TUNE='--help' for its options
	$(BIN)/python -m benchmarks.table1.tuning $(TUNE)

ablations: $(READY)  ## change one setting at a time of VICReg and BYOL in Table 1; ABLATE='--help' for its options
	$(BIN)/python -m benchmarks.table1.ablations $(ABLATE)

entropies: $(READY)  ## compare every entropy at its default weights with VICReg, SimCLR and BYOL; ENTROPIES='--help' for its options
	$(BIN)/python -m benchmarks.table1.entropies $(ENTROPIES)

figures: $(READY)  ## recompute the paper's figures; FIGURES='1 --help' for its options
	$(BIN)/python -m benchmarks.paper figures $(FIGURES)

theorems: $(READY)  ## recompute the paper's theorems on small networks: a minute; THEOREMS='1 --help' for its options
	$(BIN)/python -m benchmarks.paper theorems $(THEOREMS)

report: $(READY)  ## write docs/report.md, and the tables in docs/, from the newest folders in benchmarks/results
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.site.made

bench: $(READY)  ## time and memory beside lightly and others; BENCH='--full' for every size
	$(BIN)/python -m benchmarks.speed $(BENCH)

docs: $(READY)  ## run the code of every page and build the documentation, with search, into build/docs/index.html
	$(PYTEST) -m "not slow" tests/test_pages.py tests/test_site.py
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/python -m mkdocs build --strict

dist: $(READY)  ## the wheel and the source distribution in dist/, checked for PyPI; their links lead to REPOSITORY=https://...
	$(BIN)/python -m benchmarks.release "$(REPOSITORY)"
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist build/release
	$(BIN)/python -m twine check --strict dist/*

clean:  ## remove the environments and every cache
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
