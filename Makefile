# make demo: the main job on real input.  make test: the tests.  Both need Python 3.11 or newer, and nothing else installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
PINS := deploy/constraints.txt
EXTRAS := dev,train,kafka,demo

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check format bench bench-gpu lock clean distclean

help:
	@echo 'make demo [ARGS="..."]   the whole path on real input; ARGS go to `headwater demo`'
	@echo 'make test                the tests, without those that take minutes'
	@echo 'make test-all            every test (HEADWATER_DATA=DIR: data sets that some of them want)'
	@echo 'make check               ruff, mypy --strict, import contracts'
	@echo 'make bench [ARGS="..."]  speed, memory and recovery, measured here beside the peers: hours; ARGS="--quick": minutes'
	@echo 'make bench-gpu           the GPU path, where there is a GPU'
	@echo 'make install             the virtual environment $(VENV) (the others make it too)'
	@echo 'make clean               remove caches and what the demo kept; distclean: $(VENV) as well'

install: $(STAMP)

$(STAMP): pyproject.toml $(PINS)
	@command -v $(PYTHON) >/dev/null || { echo 'Headwater needs Python 3.11 or newer, and there is no $(PYTHON) on the PATH.'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headwater needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo 'Installing Headwater and its pinned dependencies into $(VENV) (some GB the first time) ...'
	@$(PYTHON) -m venv $(VENV) || { echo '$(PYTHON) cannot make virtual environments (on Debian and Ubuntu: install python3-venv).'; exit 1; }
	$(BIN)/python -m pip install -c $(PINS) -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m streamer demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: $(STAMP)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install -c $(PINS) -e '.[$(EXTRAS),bench]'
	@touch $@

lock: $(STAMP)
	sed -i.old '/^# ---- pip freeze ----$$/q' $(PINS) && rm $(PINS).old
	$(BIN)/python -m pip freeze --all --exclude pip --exclude-editable >> $(PINS)

clean:
	rm -rf .headwater build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find streamer agents model_export tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
