# Everything a person needs; `make help` lists it. No make? See "Without make" in the README.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CORES  ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
SNAKE  := $(BIN)/snakemake --profile workflow/profiles/local --cores $(CORES)

.PHONY: help env smoke small gpu paper page test lint bench check torture kill-test clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

env: $(VENV)/.ready ## the environment (locked versions, verified hashes)

$(VENV)/.ready: requirements.lock tools/make_env.py
	$(PYTHON) tools/make_env.py $(VENV)

smoke: env ## real data, every method at smoke scale, tables and page (about twenty seconds a method)
	$(SNAKE) smoke
	@$(BIN)/python -m repro ledger smoke

small: env ## the committed results: a quarter of an hour to an hour of CPU a method
	$(SNAKE) small
	@$(BIN)/python -m repro publish small
	@$(BIN)/python -m repro ledger small

gpu: env ## the GPU presets (needs CUDA)
	$(SNAKE) gpu
	@$(BIN)/python -m repro publish gpu
	@$(BIN)/python -m repro ledger gpu

page: env ## the page of the committed results, from results/ alone
	@$(BIN)/python -m repro report small

paper: env ## official weights and data (bring them, see README)
	$(SNAKE) paper
	@$(BIN)/python -m repro ledger paper

lint: env ## style, complexity, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || (echo "run: $(BIN)/ruff format ." && exit 1)
	$(BIN)/python tools/complexity.py repro methods
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

test: env lint check ## lint, import contracts, committed results, tests, the smoke DAG of tiny configurations
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist worksteal

bench: env ## speed ratios measured side by side; asserts nothing
	$(BIN)/python -m benchmarks

check: env ## the committed results are whole, follow from their runs and belong to today's code
	$(BIN)/python -m repro check

torture: env ## damage, malformed input and kills against the suite itself; keeps torture/table.md (about half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m torture

kill-test: env ## kill the DAG at 20 random instants; the resumed tables must be bit-identical
	KILLS=20 $(BIN)/python -m pytest -q -s tests/test_workflow.py -k killed

clean: ## remove what can be made again (keeps the data cache and results/)
	rm -rf work .snakemake
