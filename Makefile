# What a developer runs is what CI runs.
VENV ?= .venv
PYTHON ?= python3
EXTRA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(VENV)/bin/pip install --quiet --quiet --disable-pip-version-check
SOURCES := models service scripts tests

.PHONY: run test check format bench image clean

run: $(VENV)/installed-$(EXTRA)
	@exec $(VENV)/bin/moverank serve

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/mypy

format: $(VENV)/installed-dev
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/ruff check --fix $(SOURCES)

bench: $(VENV)/installed-bench
	$(VENV)/bin/python -m scripts.benchmark.service $(BENCH)

image:
	docker build --target $(EXTRA) --tag moverank:$(EXTRA) .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is named on the command line so that one resolution serves the wheel that is at hand and everything else.
$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	@echo "installing moverank ($(EXTRA)$(if $(filter-out $(EXTRA),$*),$(comma) $*)) into $(VENV); a minute or two"
	@$(PIP) torch==2.13.0 --editable '.[$(EXTRA)$(if $(filter-out $(EXTRA),$*),$(comma)$*)]'
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV)

comma := ,
