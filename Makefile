# The commands of trio_events. They need make and a Python >= 3.11, nothing else.

PYTHON = python3
SECONDS = 20
VENV = .venv
BIN = $(VENV)/bin
BENCH = .venv-bench
NEWEST = .venv-bench-newest
PIP = $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: help demo demo-bridge map test lint quick soak soak-map bench bench-quick bench-against bench-growth \
	instructions profile bench-routing bench-requests bench-bridge bench-telemetry docs mutants format clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s%s\n", $$1, $$2 }' Makefile

demo: $(VENV)/demo  ## Index the files of a directory by events: make demo [DIR=...]
	$(BIN)/python examples/file_index.py $(if $(DIR),"$$DIR")

demo-bridge: $(VENV)/demo  ## A shop and a mailer, two processes over SQLite: make demo-bridge [LOG=redis://127.0.0.1]
	$(BIN)/python examples/two_processes.py $(if $(LOG),"$$LOG")

map: $(VENV)/demo  ## Run a shop in front of the live map of its event bus
	$(BIN)/python examples/08_map.py

test: lint docs soak  ## Everything CI runs: these three, then the tests of the built wheel on every Python here
	$(BIN)/python tools/test_wheel.py

lint: $(VENV)/dev  ## Check format, style, types, and the rules about trio
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(abspath $(BIN)):$$PATH pyright tests/typing  # it asks the first Python on PATH
	$(BIN)/flake8 trio_events tests examples benchmarks

quick: $(VENV)/dev  ## Only the tests, on the source tree: make quick [ARGS='-k name']
	$(BIN)/pytest $(ARGS)

soak: $(VENV)/dev  ## Let random tasks loose on a bus, and see that nothing is left: make soak [SECONDS=20]
	$(BIN)/python tests/soak.py --seconds $(SECONDS)

soak-map: $(VENV)/dev  ## Leave the live map open at 1,000 events a second: make soak-map SECONDS=3600
	$(BIN)/python tests/soak_map.py --seconds $(SECONDS)

bench: $(BENCH)/made $(NEWEST)/made  ## Measure the bus next to its peers, and write what the docs show (minutes)
	$(BENCH)/bin/python -m benchmarks.run
	$(NEWEST)/bin/python -m benchmarks.run --quick --table docs/benchmarks/newest.md

bench-quick: $(BENCH)/made  ## Only the ratios that the bus wants to reach, in a minute
	$(BENCH)/bin/python -m benchmarks.run --quick

bench-against: $(BENCH)/made  ## The same scenarios of another commit in one run: make bench-against REV=...
	$(BENCH)/bin/python -m benchmarks.against $(REV)

bench-growth: $(BENCH)/made  ## Measure what grows with subscriptions, senders, readers (minutes)
	$(BENCH)/bin/python -m benchmarks.growth

instructions: $(BENCH)/made  ## Count the CPU instructions of an event: make instructions [REV=...]
	$(BENCH)/bin/python -m benchmarks.instructions $(if $(REV),--against $(REV))

profile: $(BENCH)/made  ## See where the time goes when ten subscribers read
	$(BENCH)/bin/python -m benchmarks.profiling

bench-routing: $(VENV)/dev  ## Measure what routing and permissions cost
	$(BIN)/python benchmarks/routing.py

bench-requests: $(VENV)/dev  ## Measure what a request costs while others are pending
	$(BIN)/python benchmarks/requests.py

bench-bridge: $(VENV)/dev  ## Measure events between two processes, over SQLite and over a server (a minute)
	$(PIP) install --group bench-bridge
	$(BIN)/python benchmarks/bridges.py

bench-telemetry: $(VENV)/dev  ## Measure what OpenTelemetry costs an event with one handler
	$(BIN)/python -m benchmarks.telemetry

mutants: $(VENV)/dev  ## See which small changes of the core no test notices (an hour)
	$(PIP) install --group mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results

docs: $(VENV)/dev  ## Build the documentation: build/docs/html/index.html
	$(BIN)/sphinx-build -M html docs build/docs --quiet --fresh-env --fail-on-warning --keep-going
	@echo build/docs/html/index.html

format: $(VENV)/dev  ## Let ruff format, and repair what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove all that these commands made
	rm -rf $(VENV) $(BENCH) $(NEWEST) build mutants .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -r {} +

# Each of these files marks a step that is done; pyproject.toml says what goes into it.

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"This is Python %d.%d, and 3.11 is needed: make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --upgrade pip
	touch $@

$(VENV)/demo: $(VENV)/made pyproject.toml
	$(PIP) install --editable '.[examples,devtools,telemetry,redis]'
	touch $@

$(VENV)/dev: $(VENV)/demo
	$(PIP) install --group tests --group tests-redis --group lint --group docs
	touch $@

# On its own: the peers pull in much, and must not decide which versions the tests run with.
# Once with the usual Python, and once with the newest one here, which may be the same.
$(BENCH)/made: python = $(PYTHON)
$(NEWEST)/made: python = "$$($(PYTHON) -c 'import sys; sys.path.append("tools"); import test_wheel; \
	print(max(test_wheel.find_pythons().items())[1])')"
$(BENCH)/made $(NEWEST)/made: pyproject.toml
	$(python) -m venv --clear $(@D)
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --upgrade pip
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install --editable . --group bench
	touch $@
