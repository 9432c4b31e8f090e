# The commands of this repository; `make help` lists them. Variables:
#   ARGS         more arguments, e.g. make quickstart ARGS="steps=50", make test ARGS="-k lease"
#   STUDY        which of configs/studies `make study` makes
#   ALGO         the advantage that quickstart trains with: ds_grpo, grpo
#   ACCEL        cpu or gpu: which requirements the environment holds
#   VENV         the environment's folder; PYTHON, the interpreter it is made with
#   REGISTRY     where `make image` pushes to; TARGET: which image
#   TORCH_INDEX  where the CPU build of torch is looked for if pip's own index has none

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help quickstart tiny-model study study-pages bench test test-unit chaos simulate elastic network slurm ray fuzz k8s-lab tools manifests policy-check image chart image-check docs lint house env install-gpu lock clean

ARGS ?=
ALGO ?= ds_grpo
STUDY ?= diversity
ACCEL ?= cpu
VENV ?= $(if $(filter gpu,$(ACCEL)),.venv-gpu,.venv)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
UV ?= uv

INSTALLED := $(VENV)/.installed
MODEL := models/tiny-countdown
# The environment's own tools (ninja, torchrun, …) come first.
RUN := PATH="$(abspath $(VENV))/bin:$$PATH"

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

quickstart: $(INSTALLED) ## train a tiny model on Countdown with asynchronous DS-GRPO
	$(RUN) asyncds tiny-model $(MODEL)
	$(RUN) asyncds run --replace configs/quickstart.yaml $(if $(filter-out ds_grpo,$(ALGO)),\
		algorithm.advantage.kind=$(ALGO) name=quickstart-$(ALGO)) $(ARGS)

models_diversity-tuning := tiny-countdown-1
models_diversity := tiny-countdown-1 tiny-countdown-2
models_staleness := tiny-countdown-1
models_tasks := tiny-countdown-1 tiny-countdown-four tiny-knights-knaves
study: $(INSTALLED) $(addprefix models/,$(models_$(STUDY))) ## make what is missing of a study (hours; Ctrl-C, and go on later)
	$(RUN) asyncds sweep configs/studies/$(STUDY).yaml --results docs/studies/$(STUDY).jsonl $(ARGS)
	$(MAKE) study-pages

STUDY_PAGES := $(patsubst %.jsonl,%.md,$(wildcard docs/studies/*.jsonl))
study-pages: ## make the tables and pictures of the studies' pages from their rows
	$(RUN) python -m asyncds.compare.pages $(STUDY_PAGES)

bench: $(INSTALLED) ## measure speed beside others, and write docs/benchmarks.md (an hour, on a machine that does nothing else)
	for benchmark in start_up learner_step end_to_end cpu_time; do $(RUN) python -m benchmarks.$$benchmark || exit; done
	$(RUN) python -m benchmarks.measured

tiny-model: $(INSTALLED) ## make the base model that is in the package again, and compare (minutes)
	$(RUN) pytest tests/integration/test_tiny_model.py -s -o timeout=3600 -m long $(ARGS)

models/%: | $(INSTALLED)
	$(RUN) asyncds tiny-model $@ --held-out 256 $(recipe_$*)
recipe_tiny-countdown-1 := --seed 1
recipe_tiny-countdown-2 := --seed 2
recipe_tiny-countdown-four := --seed 1 --operands 4 --max-number 5
recipe_tiny-countdown-wide-1 := --seed 1 --max-number 30 --clean-steps 1000 --babble-steps 100
recipe_tiny-countdown-wide-2 := --seed 2 --max-number 30 --clean-steps 1000 --babble-steps 100
recipe_tiny-knights-knaves := --seed 1 --task knights_knaves

# Those that leave room for others beside them.
LIGHT_TESTS := tests/unit tests/house tests/simulation tests/fuzz
test: $(INSTALLED) tools ## run all tests; with ARGS, those that they choose
ifeq ($(ARGS),)
	$(RUN) pytest -n 2 --dist loadfile $(LIGHT_TESTS)
	$(RUN) pytest $(addprefix --ignore ,$(LIGHT_TESTS))
else
	$(RUN) pytest $(ARGS)
endif

test-unit: $(INSTALLED) tools ## run the tests that take seconds
	$(RUN) pytest -n 2 --dist loadfile -m "not slow" tests/unit $(ARGS)

chaos: $(INSTALLED) ## faults in every phase of a real run (half an hour); ARGS="--faults 72 --seed 1"
	$(RUN) pytest tests/chaos -s --faults 50 $(ARGS)

simulate: $(INSTALLED) ## runs drawn from seeds, simulated peers around the real coordinator; ARGS="--seeds 2000"
	$(RUN) pytest tests/simulation/test_scenarios.py -o timeout=36000 --seeds 200 $(ARGS)

elastic: $(INSTALLED) ## 1, 4, 2 and 3 generators in one run (some minutes)
	$(RUN) pytest tests/e2e/test_elastic.py -s -m long $(ARGS)

network: $(INSTALLED) ## a run on three machines whose cables fail, as root on Linux (half an hour)
	$(RUN) pytest tests/network -s --network $(ARGS)

slurm: $(INSTALLED) ## a run on a real Slurm of three machines on this one, as root (some minutes)
	$(RUN) pytest tests/slurm -s -m long $(ARGS)

ray: $(INSTALLED) ## a run on a real Ray cluster of three nodes on this machine, two of which are lost (some minutes)
	$(RUN) pytest tests/ray -s -m long $(ARGS)

fuzz: $(INSTALLED) ## a million hostile frames against a live coordinator; ARGS="--fuzz-seed 7"
	$(RUN) pytest tests/fuzz -s -o timeout=7200 --frames 1000000 --fuzz-seed $$RANDOM $(ARGS)

k8s-lab: $(INSTALLED) tools ## a run on a real Kubernetes on this machine, as root; it is built once (half an hour in all)
	tests/cluster/lab/lab.sh built || tests/cluster/lab/lab.sh build
	$(RUN) pytest tests/cluster --lab -o timeout=1800 $(ARGS)

tools: ## fetch the tools that tests of deploy/ need into .tools, if they are not there
	@deploy/install/tools.sh

manifests: $(INSTALLED) tools ## write the manifests in k8s/ anew from the Helm chart
	$(RUN) python deploy/kustomize/generate.py

policy-check: $(INSTALLED) tools ## check the Kubernetes objects against policies (fetches checkov, 300 MB)
	deploy/install/tools.sh checkov
	$(RUN) pytest tests/unit/deploy/test_policy.py $(ARGS)

image: ## build an image and push it; REGISTRY=registry.example.com/team, TARGET=gpu, cpu or coordinator
	deploy/images/build.sh "$(REGISTRY)" $(TARGET)

chart: tools ## package the Helm chart into dist/; OCI=oci://registry.example.com/charts pushes it
	mkdir -p dist
	.tools/bin/helm package deploy/helm/asyncds -d dist
	$(if $(OCI),.tools/bin/helm push dist/asyncds-$$(sed -n 's/^version: //p' deploy/helm/asyncds/Chart.yaml).tgz $(OCI))

image-check: ## run the builds of images without a container engine (minutes)
	deploy/images/check.sh coordinator
	TORCH_INDEX="$(TORCH_INDEX)" deploy/images/check.sh cpu

docs: $(INSTALLED) ## build the pages of docs/ as a site with search, in site/; ARGS=serve shows it
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs $(or $(ARGS),build) --strict

lint: $(INSTALLED) ## check style, formatting and types
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

house: $(INSTALLED) ## print the measures of the code: sizes, complexity, who imports whom
	$(RUN) python -m tests.house.measure

env: $(INSTALLED) ## make the environment

install-gpu: ## make the environment for NVIDIA GPUs in .venv-gpu
	$(MAKE) env ACCEL=gpu

$(INSTALLED): requirements/$(ACCEL).lock pyproject.toml deploy/install/environment.sh
	@TORCH_INDEX="$(TORCH_INDEX)" $(if $(PYTHON),PYTHON="$(PYTHON)") \
		deploy/install/environment.sh $(ACCEL) $(VENV)
	@touch $@

LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --extra ray --extra dev --no-annotate --quiet
lock: ## pin requirements/*.lock anew (needs uv); ARGS=--upgrade for newer versions
	$(LOCK) --extra cpu --universal --python-version 3.11 \
		--overrides requirements/cpu-overrides.txt \
		--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match \
		$(addprefix --no-emit-package ,torchaudio torchcodec torchvision triton) \
		$(ARGS) --output-file requirements/cpu.lock
	$(LOCK) --extra gpu --python-platform x86_64-manylinux_2_31 --python-version 3.12 \
		$(ARGS) --output-file requirements/gpu.lock

clean: ## remove the environments, the tiny model and caches; runs/ stays
	rm -rf .venv .venv-gpu .tools $(MODEL) $(MODEL)-[0-9]* build dist site *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find asyncds services tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
