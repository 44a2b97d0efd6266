# Everything happens in a private environment, .venv: nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test lint install clean

demo: $(VENV)/.runtime  ## what the shipped model does: demo/grid.png and demo/index.html
	$(BIN)/open4m demo --out demo

test: $(VENV)/.test  ## lint, then every test
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/python -m pytest

install: $(VENV)/.test

