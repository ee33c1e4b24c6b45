# Everything a person needs; `make help` lists it. No make? See "Without make" in the README.
PYTHON ?= python3
VENV   ?= .venv
# A word for the shell, whatever is in it. Programs of the environment are run as modules: the scripts
# beside them hold a path that not every shell can read.
quoted  = '$(subst ','\'',$(1))'
PY     := $(call quoted,$(PYTHON))
RUN    := $(call quoted,$(VENV)/bin/python)
CORES  ?= $(shell $(PY) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
SNAKE  := $(RUN) -m snakemake --profile workflow/profiles/local --cores $(CORES)

.PHONY: help env smoke small gpu paper page test lint format bench check torture audit kill-test
.PHONY: rehearse-gpu rehearse-presets clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

env: ## the environment (locked versions, verified hashes); at once where it is there
	@$(PY) tools/make_env.py $(call quoted,$(VENV))

smoke: env ## real data, every method at smoke scale, tables and page (about twenty seconds a method)
	$(SNAKE) smoke
	@$(RUN) -m repro ledger --scale smoke

# Open checks ask for further seeds, as far as the scale allows; 1 says that none does.
further = while :; do $(RUN) -m repro seeds --scale $(1); case $$? in 0) $(SNAKE) $(1) || exit 1;; 1) break;; *) exit 2;; esac; done

small: env ## the committed results: a quarter of an hour to an hour of CPU a method
	$(SNAKE) small
	@$(call further,small)
	@$(RUN) -m repro publish --scale small
	@$(RUN) -m repro ledger --scale small

gpu: env ## the GPU presets (needs CUDA)
	$(SNAKE) gpu
	@$(call further,gpu)
	@$(RUN) -m repro publish --scale gpu
	@$(RUN) -m repro ledger --scale gpu

page: env ## the site of all committed results, from results/ alone
	@$(RUN) -m repro report

paper: env ## official weights and data (bring them, see README)
	$(SNAKE) paper
	@$(RUN) -m repro ledger --scale paper

lint: env ## style, complexity, types and the import contracts
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --quiet . || (echo "run: make format" && exit 1)
	$(RUN) tools/complexity.py repro methods
	$(RUN) -m mypy
	PYTHONPATH=. $(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: env ## lay the code out as lint wants it
	$(RUN) -m ruff format .

test: env lint check ## lint, import contracts, committed results, tests, the smoke DAG of tiny configurations
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(CORES) --dist worksteal

rehearse-gpu: env ## the gpu presets at sizes of seconds on a CUDA device that is none (g++; half an hour)
	$(RUN) -m tools.rehearsal --device cuda --scale gpu --jobs $(CORES)

rehearse-presets: env ## every preset of every scale at sizes of seconds on the CPU (half an hour)
	$(RUN) -m tools.rehearsal --device cpu --scale smoke,small,gpu,paper --jobs $(CORES)

bench: env ## speed ratios measured side by side; asserts nothing
	$(RUN) -m benchmarks

check: env ## the committed results are whole, follow from their runs and belong to today's code
	$(RUN) -m repro check

torture: env ## damage, malformed input and kills against the suite itself; keeps torture/table.md (about an hour)
	OMP_NUM_THREADS=1 $(RUN) -m torture --jobs $(CORES)

audit: env ## the judge on trial: records tampered with, planted faults; keeps repro/suite/audit/table.md (under an hour)
	OMP_NUM_THREADS=1 $(RUN) -m repro audit --keep --jobs $(CORES)

kill-test: env ## kill the DAG at 20 random instants; the resumed tables must be bit-identical
	KILLS=20 $(RUN) -m pytest -q -s tests/test_workflow.py -k killed

clean: ## remove what can be made again (keeps the data cache and results/)
	rm -rf work .snakemake
