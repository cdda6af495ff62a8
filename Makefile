# Everything a developer runs. `make help` lists it; each target does its own set-up.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
STAMP := .venv/.installed
JOBS ?= 2
SEED ?= 1
SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup up down demo test test-fast sim-full soak stripe-probe screenshots check format bench lock

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## build .venv from requirements.lock (every other target does it when needed)
	@:

$(STAMP): requirements.lock pyproject.toml tools/uv-requirements.txt tools/bootstrap.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed"; exit 1; }
	@echo "building .venv from requirements.lock"
	@$(PYTHON) tools/bootstrap.py

up: $(STAMP) ## start everything in the foreground; Ctrl-C stops it
	@exec $(BIN)/stripemeter up

down: $(STAMP) ## stop a stack that runs elsewhere from this directory
	@exec $(BIN)/stripemeter down

demo: $(STAMP) ## a year of real flights from HTTP to Stripe, proven
	@exec $(BIN)/stripemeter demo

test: $(STAMP) ## run every test (ARGS="-k fold" passes options to pytest)
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup $(ARGS)

test-fast: $(STAMP) ## run the pure tests only: seconds, no server
	@$(BIN)/pytest -q tests/unit tests/laws $(ARGS)

sim-full: $(STAMP) ## play every scenario in labs/, the long ones too (the tests play the others)
	@$(BIN)/stripemeter sim run --dir labs

soak: $(STAMP) ## faults at random for a while, then Stripe's totals must equal ours (SEED=n SECONDS=n)
	@$(BIN)/python -m tests.faults.soak --seed $(SEED) --seconds $(SECONDS)

stripe-probe: $(STAMP) ## ask a Stripe sandbox (STRIPE_SANDBOX_KEY) what is unknown; answers become the emulator's knobs
	@$(BIN)/python -m tools.stripe_probe $(ARGS)

screenshots: $(STAMP) ## take the pictures in docs/screenshots anew, in a stack of their own (needs Chromium)
	@$(BIN)/python -m tests.browser.screenshots docs/screenshots

check: $(STAMP) ## format, lint, types, import contracts, SQL: what CI runs before the tests
	@$(BIN)/python -m tools.check

format: $(STAMP) ## rewrite Python files to the one format
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix --quiet

bench: $(STAMP) ## measure; timings are never tests
	@$(BIN)/python -m bench

lock: $(STAMP) ## update requirements.lock to the newest versions the bounds allow
	@$(BIN)/uv pip compile pyproject.toml --extra server --extra demo --group dev --universal --generate-hashes \
		--no-header --no-annotate --python-version 3.11 --upgrade --quiet --output-file requirements.lock
