# Everything happens in a private environment, .venv: nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin

# Python compiles what is imported, once: a tenth of what is installed. To compile all of it takes a minute.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

# Tests run in one process per core, each with one thread: networks of a few thousand weights gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist loadgroup

.PHONY: demo studio docs test test-all clean

demo: .venv/demo.done  ## what the shipped model does: demo/grid.png, demo/captions.png, demo/index.html
	$(BIN)/open4m demo --out demo

studio: .venv/demo.done  ## the shipped model in a browser: move boxes, paint, type, and see what it makes
	$(BIN)/open4m studio

docs: .venv/docs.done  ## the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: .venv/test.done  ## lint, then every test but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) -m "not slow"

test-all: test docs  ## the slow ones too: what repeats, or takes long; and the site, without a warning
	$(PYTEST) -m slow

.venv/demo.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[labellers,diffusion,evaluate,serve]'
	touch $@

.venv/test.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[test]'
	touch $@

.venv/docs.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[docs]'
	touch $@

clean:  ## remove the environment and what the commands wrote
	rm -rf .venv demo runs site
