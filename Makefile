# What a developer runs is what CI runs.
VENV ?= .venv
PYTHON ?= python3
EXTRA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(VENV)/bin/pip install --quiet --quiet --disable-pip-version-check
SOURCES := models service scripts tests

.PHONY: run test test-clients check format bench audit image clean browser

run: $(VENV)/installed-$(EXTRA)
	@exec $(VENV)/bin/moverank serve

test: $(VENV)/installed-dev browser
	$(VENV)/bin/python -m pytest

# Other services' clients, half a gigabyte of them: LangChain, LlamaIndex, Haystack.
test-clients: $(VENV)/installed-clients
	$(VENV)/bin/python -m pytest -n 0 tests/test_clients.py tests/test_more_clients.py

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/mypy

format: $(VENV)/installed-dev
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/ruff check --fix $(SOURCES)

bench: $(VENV)/installed-bench
	$(VENV)/bin/python -m scripts.benchmark.service $(BENCH)
	$(VENV)/bin/python -m scripts.benchmark.rerank $(BENCH_RERANK)
	$(VENV)/bin/python -m scripts.benchmark.lookup $(BENCH_LOOKUP)
	$(VENV)/bin/python -m scripts.benchmark.prefix_tree $(BENCH_TREE)
	$(VENV)/bin/python -m scripts.benchmark.overload
	$(VENV)/bin/python -m scripts.benchmark.endurance
	$(VENV)/bin/python -m scripts.benchmark.layouts

# Asks the database of known weaknesses on the network about what is installed.
audit: $(VENV)/installed-audit
	$(VENV)/bin/pip-audit --local --skip-editable

image:
	docker build --target $(EXTRA) --tag moverank:$(EXTRA) .

# The page is tested in a real browser: Debian's Chromium and a Chinese font, where we may install them.
browser:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium and a Chinese font for the tests of the page; half a minute"; \
	  { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium fonts-wqy-zenhei; } \
	  >/dev/null 2>&1 </dev/null || echo "they could not be installed: the tests of the page will be skipped"; \
	fi

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
