# Everything runs from .venv, which the targets make by themselves. Needs Python >= 3.11 and make.
#
#   make demo                       the whole thing on your machine, with a database of its own
#   make demo ARGS="--seconds 20"   the same for 20 seconds, then compare everything, without a terminal
#   make test                       all tests, on every PostgreSQL found (system ones and embedded 16, 18)
#   make check                      formatting, lint, types, import arrows
#   make stress                     load and kills for a minute; ARGS="--scenario ddl --seconds 300 --seed N"
#   make faults                     every sink, every fault, and kills; ARGS="--sinks webhook --faults hang --seed 7"
#   make oracle                     random values of every type, judged by Postgres; ARGS="--values 200000 --seed 7"
#   make differential               SQL expressions, judged by Postgres; ARGS="--expressions 20000 --rows 50"
#   make bench                      the numbers of the README, on your machine

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test oracle differential check format bench stress faults install dev clean

install: $(VENV)/.installed
dev: $(VENV)/.dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "cdcflow needs Python 3.11 or newer; none was found on PATH" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)

# The kernel is built in place, where a compiler and Python's headers are there; without them it is the twin.
$(VENV)/.installed: $(BIN)/python pyproject.toml setup.py src/cdcflow/decode/_kernel.pyx \
		src/cdcflow/source/_copying.pyx src/cdcflow/transform/_hmac.pyx src/cdcflow/transform/_sha256.h
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/cdcflow demo $(ARGS)

# Most tests wait for a server most of the time: three processes on two cores take half the time of one.
test: dev
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

oracle: dev
	PYTHONPATH=tests $(BIN)/python -m oracle $(ARGS)

differential: dev
	PYTHONPATH=tests $(BIN)/python -m differential $(ARGS)

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/typecheck.py
	$(BIN)/python -m pytest tests/unit/test_architecture.py

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: dev
	$(BIN)/python -m bench $(ARGS)

stress: dev
	PYTHONPATH=tests $(BIN)/python -m stress $(ARGS)

faults: dev
	PYTHONPATH=tests $(BIN)/python -m faults $(ARGS)

clean:
	rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis src/cdcflow/decode/_kernel.c \
		src/cdcflow/source/_copying.c src/cdcflow/transform/_hmac.c
	rm -f src/cdcflow/decode/_kernel.*.so src/cdcflow/source/_copying.*.so src/cdcflow/transform/_hmac.*.so
