# Everything a developer runs. Needs make and a Python from 3.10 on; the rest comes into .venv.
# More arguments for a target's tool: make test ARGS='-k ledger -x'

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first Python that is new enough; a name on PATH may be too old, or a shim with nothing behind it.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.10,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := $(wildcard safepulsar tests tools examples benchmarks noxfile.py)
ARGS :=
# Tests run in so many processes, each with brokers of its own; 0 is none but pytest's own, as a debugger wants it.
JOBS ?= 2

.PHONY: help demo test test-unit test-broker soak hazards fmt lint type bench bench-check bench-pages nox clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(READY) ## send real orders, kill the broker meanwhile, count what arrived
	@$(BIN)/python -m examples.demo $(ARGS)

test: $(READY) ## every test; those on a real Apache Pulsar where Java 17 and Maven are found
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

test-unit: $(READY) ## the tests that need no broker
	@$(BIN)/python -m pytest -q -m 'not broker and not hazard' $(ARGS)

test-broker: $(READY) ## the tests on brokers of both kinds
	@$(BIN)/python -m pytest -q -m broker $(ARGS)

# So many rounds that nobody waits for their end.
soak: $(READY) ## kill everything at random moments until stopped; all of CDNOW: SAFEPULSAR_CDNOW=/path/to/its.csv
	@SAFEPULSAR_ROUNDS=10000 $(BIN)/python -m pytest -q -s tests/faults/test_outbox.py tests/faults/test_durable_send.py \
		-k 'killed_anywhere or killed_and_run_again' $(ARGS)

hazards: $(READY) ## the hazards of the raw client, and what becomes of them
	@$(BIN)/python -m pytest -q -m hazard $(ARGS)

fmt: $(READY) ## format the code and mend what can be mended by machine
	@$(BIN)/ruff check --quiet --fix-only $(SOURCES)
	@$(BIN)/ruff format --quiet $(SOURCES)

lint: $(READY) ## check rules and format
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/ruff format --quiet --check $(SOURCES)

type: $(READY) ## check types
	@$(BIN)/mypy --no-error-summary $(SOURCES)

bench: $(READY) ## measure against the raw client; takes more than an hour, wants a quiet machine
	@$(BIN)/python -m benchmarks run $(ARGS)

bench-check: $(READY) ## has a change made it slower? minutes, or half of one with ARGS=--short
	@$(BIN)/python -m benchmarks check $(ARGS)

bench-pages: $(READY) ## write plots and tables into the pages, from ARGS=RESULTS
	@$(BIN)/python -m benchmarks plot $(ARGS)

nox: $(READY) ## the tests on Python 3.10 to 3.13, the slow ones on 3.11 only
	@$(BIN)/nox $(ARGS)

clean: ## remove what make and the tools have made here
	@rm -rf $(VENV) .nox .hypothesis .mypy_cache .pytest_cache .ruff_cache dist

# Made anew when the dependencies change, and only then marked as ready.
$(READY): pyproject.toml
	@test -n '$(PYTHON)' || { echo 'no Python from 3.10 on found; name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@echo 'making $(VENV) with $(PYTHON) (once, about half a minute) …' >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@
