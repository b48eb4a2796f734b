# The two commands a newcomer needs: `make serve` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL ?= smollm2

# Where the extension lands for work in the checkout: src/stoker/_kernels*.so.
BUILD ?= build/kernels

.PHONY: help kernels
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

kernels:  ## build the kernels in place, into src/stoker (developers)
	cmake -S . -B $(BUILD) -G Ninja -DPython_EXECUTABLE="$$(command -v python3)" >/dev/null
	cmake --build $(BUILD)
	cp $(BUILD)/_kernels*.so src/stoker/
