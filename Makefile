# make demo    distil a real model (KERAS_BACKEND=jax, tensorflow or torch)
# make pictures  the pictures of the README, from the same training
# make notebooks  execute those of examples/ (NOTEBOOKS="first_distillation" for
#                 some; KERAS_BACKEND=... for a backend other than their own)
# make test    the test suite, once per backend, in TEST_WORKERS processes
# make test-wheel  install the wheel as a user would, once per backend, and train
# make test-lowest  a part of the suite on the lowest versions of pyproject.toml
# make test-newest  the same on the newest that pip finds
# make test-distributed  all tests on several devices, the long ones too
# make test-kill  kill a training 20 times per backend: takes half an hour
# make lint    ruff and mypy, as CI runs them
# make format  fix and format the code with ruff
# make docs    guides and API reference, into site/; any warning is an error
# make dist    wheel and sdist, checked, into dist/ (see RELEASING.md)
# make api     rewrite tests/public_api.txt, after an intended change
# make bench   benchmarks, beside TRL and Transformers: takes hours
# make experiment-small  three methods on one task, in less than ten minutes
# make clean   remove everything that the above made, with the environment

KERAS_BACKEND ?= jax
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
DIST ?= .venv-dist
WHEEL ?= .venv-wheel
LOWEST ?= .venv-lowest
NEWEST ?= .venv-newest
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
DEMO_ARGS ?=
NOTEBOOKS ?=
BENCH_ARGS ?=
KILL_ARGS ?= --kills 20

BACKENDS := jax tensorflow torch
BIN := $(VENV)/bin

# Every test is in one of these parts. On TensorFlow each part has processes of its
# own, since they keep all programs that XLA has compiled: gigabytes for all tests.
# On the other backends two parts share them, as starting them takes 20 s.
PART_0 := tests/decoding
PART_1 := tests/rollouts
FOLDERS = $(filter-out $(PART_0) $(PART_1) tests/support,$(patsubst %/,%,$(wildcard $(1))))
PART_2 := $(call FOLDERS,tests/[a-d]*/)
PART_3 := $(call FOLDERS,tests/[e-o]*/)
PART_4 := $(call FOLDERS,tests/[p-z]*/)
PART_5 := $(wildcard tests/test_[a-d]*.py)
PART_6 := $(wildcard tests/test_[e-m]*.py)
PART_7 := $(wildcard tests/test_[n-z]*.py)
PARTS_tensorflow := "$(PART_0)" "$(PART_1)" "$(PART_2)" "$(PART_3)" \
	"$(PART_4)" "$(PART_5)" "$(PART_6)" "$(PART_7)"
PARTS_jax := "$(PART_0) $(PART_1)" "$(PART_2) $(PART_3)" \
	"$(PART_4) $(PART_5)" "$(PART_6) $(PART_7)"
PARTS_torch := $(PARTS_jax)

# The tests for the bounds of pyproject.toml: all that depends on a version of
# Keras, KerasHub, a backend, Jinja or matplotlib is in them, if not in depth.
BOUND_TESTS := tests/test_distiller.py tests/rollouts tests/chat \
	tests/visualization/test_plots.py

comma := ,
empty :=
BOUND_EXTRAS = $(subst $(empty) ,$(comma),$(strip $(BACKENDS) chat plot))
BOUND_PACKAGES = -e ".[$(BOUND_EXTRAS)]" --group pytest

define test_bounds
$(1)/bin/python -m pip freeze --exclude-editable
status=0; for backend in $(BACKENDS); do \
	KERAS_BACKEND=$$backend $(1)/bin/python -m pytest $(BOUND_TESTS) \
		--numprocesses $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS) \
		|| status=1; \
done; exit $$status
endef

PIP := $(BIN)/python -m pip install --quiet

# The versions that the project is tested with. pip's configuration (an index or
# a wheel folder) decides whether PyTorch is for the CPU or for CUDA.
PIN_jax := jax==0.10.2
PIN_tensorflow := tensorflow==2.21.*
PIN_torch := torch==2.13.0
PINS := keras==3.15.1 keras-hub==0.32.0 transformers==5.23.* gguf==0.19.* \
	$(PIN_tensorflow) $(PIN_torch)

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo pictures notebooks test $(BACKENDS:%=test-%) test-wheel \
	$(BACKENDS:%=test-wheel-%) test-lowest test-newest test-distributed test-kill lint \
	format docs dist api bench experiment-small clean

demo: $(VENV)/demo-$(KERAS_BACKEND).stamp
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python examples/distill_smollm2.py $(DEMO_ARGS)

pictures: $(VENV)/demo-$(KERAS_BACKEND).stamp
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python examples/pictures.py $(DEMO_ARGS)

# They see KERAS_BACKEND only if the caller sets it.
notebooks: $(VENV)/notebooks.stamp
	$(BIN)/python examples/notebooks/execute.py $(NOTEBOOKS)

# -k: if one backend fails, the others are tested all the same.
test: $(VENV)/test.stamp
	@$(MAKE) -k --no-print-directory $(BACKENDS:%=test-%)

$(BACKENDS:%=test-%): test-%: $(VENV)/test.stamp
	status=0; for part in $(PARTS_$*); do \
		KERAS_BACKEND=$* $(BIN)/python -m pytest $$part \
			--numprocesses $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS) \
			|| status=1; \
	done; exit $$status

test-wheel: $(BACKENDS:%=test-wheel-%)

# A new environment with one backend, then with the extras `chat` and `plot`.
# -I: the checkout is not on the path.
$(BACKENDS:%=test-wheel-%): test-wheel-%: dist
	rm -rf $(WHEEL)-$*
	$(PYTHON) -m venv $(WHEEL)-$*
	printf '%s\n' $(PINS:%='%') '$(PIN_jax)' > $(WHEEL)-$*/constraints.txt
	for extras in $* $*,chat,plot; do \
		$(WHEEL)-$*/bin/python -m pip install --quiet \
			--constraint $(WHEEL)-$*/constraints.txt \
			"$$(echo dist/*.whl)[$$extras]" && \
		KERAS_BACKEND=$* $(WHEEL)-$*/bin/python -I \
			tests/packaging/use_wheel.py $$extras || exit 1; \
	done

# pip runs each time: BACKENDS, which says what to install, may have changed.
test-lowest: | $(LOWEST)/pip.stamp
	@echo "Installing into $(LOWEST), which takes minutes the first time."
	$(PYTHON) tests/packaging/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet \
		--constraint $(LOWEST)/constraints.txt $(BOUND_PACKAGES)
	$(call test_bounds,$(LOWEST))

test-newest: | $(NEWEST)/pip.stamp
	@echo "Installing into $(NEWEST), which takes minutes the first time."
	$(NEWEST)/bin/python -m pip install --quiet --upgrade \
		--upgrade-strategy eager $(BOUND_PACKAGES)
	$(call test_bounds,$(NEWEST))

test-distributed: $(VENV)/test.stamp
	status=0; for backend in $(BACKENDS); do \
		KERAS_BACKEND=$$backend $(BIN)/python -m pytest tests/distributed \
			-m "long or not long" $(PYTEST_ARGS) || status=1; \
	done; exit $$status

test-kill: $(VENV)/test.stamp
	status=0; for backend in $(BACKENDS); do \
		KERAS_BACKEND=$$backend $(BIN)/python -m tests.support.kill_and_resume \
			$(KILL_ARGS) || status=1; \
	done; exit $$status

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/lint.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without the variable, the theme prints a notice of its own.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(DIST)/dist.stamp
	rm -rf dist
	$(DIST)/bin/python -m build
	$(DIST)/bin/python -m twine check --strict dist/*
	$(DIST)/bin/python tests/packaging/check_dist.py

api: $(VENV)/test.stamp
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python -m tests.support.public_api

bench: $(VENV)/test.stamp $(PEERS)/bench.stamp
	$(BIN)/python benchmarks/run.py --peers $(PEERS)/bin/python $(BENCH_ARGS)

experiment-small: $(VENV)/experiments.stamp
	$(BIN)/python -m experiments.run --scale small --tasks pronunciation \
		--sizes 1000 --inits pretrained --methods skd supervised on_policy \
		--seeds 1 --learning-rates 3e-3 --jobs 2 --results build/experiment
	$(BIN)/python -m experiments.report --results build/experiment \
		--output build/experiment/README.md

clean:
	rm -rf $(VENV) $(PEERS) $(DIST) $(BACKENDS:%=$(WHEEL)-%) $(LOWEST) $(NEWEST)
	rm -rf build dist site *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: pip runs again only if the list of packages may have changed. The
# first one upgrades a pip that is older than dependency groups.
%/pip.stamp:
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet "pip>=25.1"
	touch $@

# With all three backends.
$(VENV)/test.stamp $(VENV)/notebooks.stamp: $(VENV)/%.stamp: \
		pyproject.toml Makefile | $(VENV)/pip.stamp
	@echo "Installing into $(VENV), which takes minutes the first time."
	$(PIP) -e ".[chat,examples]" --group $* $(PINS) $(PIN_jax)
	touch $@

$(VENV)/demo-%.stamp: pyproject.toml Makefile | $(VENV)/pip.stamp
	@echo "Installing into $(VENV), which takes minutes the first time."
	$(PIP) -e ".[examples]" $(PINS) $(PIN_$*)
	touch $@

$(VENV)/experiments.stamp: pyproject.toml Makefile | $(VENV)/pip.stamp
	@echo "Installing into $(VENV), which takes minutes the first time."
	$(PIP) -e . --group experiments $(PINS) $(PIN_jax)
	touch $@

# Both read the source, and need neither Keras nor a backend.
$(VENV)/lint.stamp $(VENV)/docs.stamp: $(VENV)/%.stamp: \
		pyproject.toml Makefile | $(VENV)/pip.stamp
	$(PIP) --group $*
	touch $@

$(DIST)/dist.stamp: pyproject.toml | $(DIST)/pip.stamp
	$(DIST)/bin/python -m pip install --quiet --group dist
	touch $@

# The peers of the benchmarks, at their current releases.
$(PEERS)/bench.stamp: Makefile
	@echo "Installing into $(PEERS), which takes minutes the first time."
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet $(PIN_torch) transformers trl
	touch $@
