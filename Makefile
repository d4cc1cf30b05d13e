# `make demo` and `make test` set up everything they need; nothing has to be run before them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-slow bench bench-subset bench-llama check clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once; torch, Ray and DeepSpeed take some minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/tirazh demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

# SOAK="--seed 8 --faults 50": other faults; docs/soak.md says what they are.
soak: $(STAMP)
	$(BIN)/python -m tests.soak $(SOAK)

bench bench-subset: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.run $(if $(filter bench-subset,$@),--subset) $(BENCH)

# llama.cpp as one more peer: PyPI has its source only, which takes a core about ten minutes to compile, once.
bench-llama: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[bench-llama]'

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist demo-output
