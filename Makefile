# make demo    distil a real model (KERAS_BACKEND=jax, tensorflow or torch)
# make test    the test suite, once per backend, in TEST_WORKERS processes
# make bench   benchmarks, beside TRL and Transformers: takes hours
# make lint    ruff, as CI runs it
# make clean   remove what the above made, the environment included

KERAS_BACKEND ?= jax
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
DEMO_ARGS ?=
BENCH_ARGS ?=

BACKENDS := jax tensorflow torch
BIN := $(VENV)/bin

# The versions that the project is tested with. Whether a PyTorch for the CPU
# or for CUDA arrives is pip's configuration (an index or a wheel folder).
PIN_jax := jax==0.10.2
PIN_tensorflow := tensorflow==2.21.*
PIN_torch := torch==2.13.0
PINS := keras==3.15.1 keras-hub==0.32.0 transformers==5.23.* gguf==0.19.* \
	$(PIN_tensorflow) $(PIN_torch)

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test $(BACKENDS:%=test-%) bench lint format clean

demo: $(VENV)/demo-$(KERAS_BACKEND).stamp
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python examples/distill_smollm2.py $(DEMO_ARGS)

# -k: a backend that fails does not hide what the others say.
test: $(VENV)/test.stamp
	@$(MAKE) -k --no-print-directory $(BACKENDS:%=test-%)

$(BACKENDS:%=test-%): test-%: $(VENV)/test.stamp
	KERAS_BACKEND=$* $(BIN)/python -m pytest \
		--numprocesses $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

bench: $(VENV)/test.stamp $(PEERS)/bench.stamp
	$(BIN)/python benchmarks/run.py --peers $(PEERS)/bin/python $(BENCH_ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: pip runs again only when what it should install has changed.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/test.stamp: pyproject.toml Makefile | $(VENV)/bin/python
	@echo "Installing into $(VENV), which takes minutes the first time."
	$(BIN)/python -m pip install --quiet -e ".[dev,examples]" \
		$(PINS) $(PIN_jax)
	touch $@

$(VENV)/demo-%.stamp: pyproject.toml Makefile | $(VENV)/bin/python
	@echo "Installing into $(VENV), which takes minutes the first time."
	$(BIN)/python -m pip install --quiet -e ".[examples]" \
		$(PINS) $(PIN_$*)
	touch $@

# What the benchmarks compare with, at its current release.
$(PEERS)/bench.stamp: Makefile
	@echo "Installing into $(PEERS), which takes minutes the first time."
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet $(PIN_torch) transformers trl
	touch $@
