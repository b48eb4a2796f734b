# The two commands a newcomer needs: `make serve` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= smollm2
SERVE_FLAGS ?=
PYTEST_FLAGS ?=
JUDGES := http langchain llamaindex lm_eval aiperf
KERNEL_SOURCES := CMakeLists.txt $(shell find kernels -type f)
PYTHON_SOURCES := $(shell find src/stoker -name "*.py")

.PHONY: help serve chat model test lint types unit conformance soak kernels compiled compiled-test clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

serve: $(VENV)/.installed  ## build, fetch the default model and serve it on http://127.0.0.1:8000
	@$(BIN)/stoker serve $(MODEL) $(SERVE_FLAGS)

model: $(VENV)/.installed  ## fetch the default model
	@$(BIN)/stoker pull $(MODEL)

test: lint types unit  ## everything that CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev $(VENV)/judges/.http model
	STOKER_JUDGES=$(abspath $(VENV))/judges $(BIN)/pytest -m "not conformance" $(PYTEST_FLAGS)

conformance: $(VENV)/.dev $(JUDGES:%=$(VENV)/judges/.%) model  ## the long checks against programs we did not write (20 minutes)
	STOKER_JUDGES=$(abspath $(VENV))/judges $(BIN)/pytest -m conformance $(PYTEST_FLAGS)

soak: $(VENV)/.dev  ## 100 000 requests from 200 clients, 20 000 while engines die (half an hour)
	STOKER_STORM_REQUESTS=100000 $(BIN)/pytest -s -m conformance tests/conformance/test_storm.py $(PYTEST_FLAGS)
	STOKER_CHAOS_REQUESTS=20000 $(BIN)/pytest tests/router/test_chaos.py $(PYTEST_FLAGS)
	STOKER_CHAOS_REQUESTS=20000 $(BIN)/pytest -m conformance tests/conformance/test_chaos.py $(PYTEST_FLAGS)

# For the environment that is active: builds incrementally and leaves the module in src/stoker, and
# where the package is installed in editable form in its installation, whose module goes first.
kernels:  ## rebuild the kernels in place, after a change in kernels/
	cmake -S . -B build/kernels -G Ninja -DPython_EXECUTABLE="$$(command -v python3)" >/dev/null
	cmake --build build/kernels
	install -m 755 build/kernels/_kernels*.so src/stoker/
	@found="$$(python3 -c 'from importlib.util import find_spec; print(find_spec("stoker._kernels").origin)')"; \
	  [ "$$found" -ef src/stoker/_kernels*.so ] || install -m 755 build/kernels/_kernels*.so "$$found"

compiled: $(VENV)/compiled/.installed  ## a second environment, .venv/compiled, where the router is native code (2 minutes)

compiled-test: compiled  ## the router's tests in that environment (2 minutes)
	$(VENV)/compiled/bin/pytest -m "not conformance" tests/router $(PYTEST_FLAGS)

clean:  ## remove everything that was built
	rm -rf $(VENV) build src/stoker/_kernels*.so

# An environment with what a server needs, and nothing else: the compiler's tools come and go with
# the build, and Python compiles what is imported, not all that is installed.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Stoker needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@command -v c++ >/dev/null || \
	  { echo "Stoker needs a C++20 compiler. On Debian or Ubuntu: apt-get install g++"; exit 1; }
	@echo "Making a virtual environment in $(VENV) …"
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install -q --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.pip pyproject.toml $(KERNEL_SOURCES)
	@echo "Compiling the kernels and installing Stoker (about a minute the first time) …"
	@$(BIN)/pip install -q --no-compile -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(BIN)/pip install -q --group dev
	@touch $@

# Not editable: what is installed is a copy, native where the router's request path is. mypyc reads
# the types of what it depends on, so that is there before.
$(VENV)/compiled/.installed: $(VENV)/.pip pyproject.toml tools/compile_router.py $(KERNEL_SOURCES) $(PYTHON_SOURCES)
	@echo "Compiling the kernels and the router, and installing both in $(VENV)/compiled …"
	@$(PYTHON) -m venv $(VENV)/compiled
	@$(VENV)/compiled/bin/pip install -q --upgrade pip
	@$(VENV)/compiled/bin/pip install -q --group dev -r <($(VENV)/compiled/bin/python -c \
	  'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")')
	@PATH="$(abspath $(VENV))/compiled/bin:$$PATH" $(VENV)/compiled/bin/pip install -q --no-build-isolation \
	  -C build-dir=build/compiled -C cmake.define.STOKER_COMPILED=ON .
	@touch $@

# Programs that judge a server from outside, in environments of their own: what they depend on
# must not meet what we depend on, nor what the others do.
JUDGE_http := "schemathesis>=4.32,<5" "llm-comply==0.5.*"
JUDGE_langchain := "langchain-tests==1.1.*" "langchain-openai==1.7.*"
JUDGE_llamaindex := "llama-index-llms-openai-like==0.8.*" "llama-index-embeddings-openai-like==0.4.*"
JUDGE_lm_eval := "lm_eval[api]==0.4.13"
JUDGE_aiperf := "aiperf==0.13.*"

$(VENV)/judges/.%: $(VENV)/.pip
	@echo "Making an environment for $* …"
	@$(PYTHON) -m venv $(VENV)/judges/$*
	@$(VENV)/judges/$*/bin/pip install -q $(JUDGE_$*)
	@touch $@
