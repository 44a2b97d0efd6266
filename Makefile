# Everything happens in a private environment, .venv: nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test clean

demo: .venv/demo.done  ## what the shipped model does: demo/grid.png, demo/captions.png, demo/index.html
	$(BIN)/open4m demo --out demo

test: .venv/test.done  ## lint, then every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

.venv/demo.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[labellers,diffusion]'
	touch $@

.venv/test.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:  ## remove the environment and what the commands wrote
	rm -rf .venv demo runs
