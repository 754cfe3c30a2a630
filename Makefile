# `make demo` and `make test` need Python 3.11, 3.12 or 3.13 and make, nothing else.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
UV ?= uv
BIN := .venv/bin
ENV := .venv/complete
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" pyproject.toml

.PHONY: demo test check bench format generate lock clean

demo: $(ENV)  ## a two-stage cluster on the demo model answers a prompt
	PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/demo.sh

test: $(ENV)  ## what measures time has the machine for itself; the rest mostly waits, so two at a time
	$(BIN)/python -m pytest tests/cluster
	$(BIN)/python -m pytest -n 2 --dist loadfile tests --ignore tests/cluster

check: $(ENV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m coordinator.config | diff -u configs/example.toml -
	$(BIN)/python scripts/files.py --check
	$(BIN)/python scripts/metrics.py --check
	$(BIN)/python scripts/doctor.py --check
	$(BIN)/python scripts/plans.py --check
	sh scripts/lines.sh

bench: $(ENV)
	$(BIN)/stageline bench decode

format: $(ENV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

generate: $(ENV)  ## the files that `check` compares with the code
	$(BIN)/python -m coordinator.config > configs/example.toml
	$(BIN)/python scripts/files.py
	$(BIN)/python scripts/metrics.py
	$(BIN)/python scripts/doctor.py
	$(BIN)/python scripts/plans.py

lock:  ## after a change of the dependencies in pyproject.toml; needs uv
	$(COMPILE) --extra cpu --group dev -o locks/dev.lock
	$(COMPILE) --extra cpu -o locks/cpu.lock
	$(COMPILE) --extra cuda13 -o locks/cuda13.lock

clean:
	rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(ENV): locks/dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: Stageline needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r locks/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
