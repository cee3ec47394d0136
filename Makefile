# The commands of trio_events. They need make and a Python >= 3.11, nothing else.

PYTHON = python3
SECONDS = 20
VENV = .venv
SCRIPTS = $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN = $(VENV)/$(SCRIPTS)
BENCH = .venv-bench
NEWEST = .venv-bench-newest
PIP = $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: help demo demo-bridge map test lint quick soak soak-map bench bench-quick bench-against bench-growth \
	instructions profile bench-routing bench-requests bench-bridge bench-telemetry docs mutants format clean

help:  ## Show this list
	@echo "Usage: make COMMAND. A command makes the environment it needs (.venv, .venv-bench) the first"
	@echo "time, with the packages that pyproject.toml lists; nothing is installed anywhere else."
	@awk -F ':.*## ' '/^## / { print "\n" substr($$0, 4) } \
		/^[a-z-]+:.*## / { printf "  make %-16s%s\n", $$1, $$2 }' Makefile

## See it at work

demo: $(VENV)/demo  ## Index a directory, the standard library by default: make demo [DIR=...]
	$(BIN)/python examples/file_index.py $(if $(DIR),"$$DIR")

demo-bridge: $(VENV)/demo  ## Run a shop and a mailer, two processes: make demo-bridge [LOG=redis://127.0.0.1]
	$(BIN)/python examples/two_processes.py $(if $(LOG),"$$LOG")

map: $(VENV)/demo  ## Run a shop with the live map of its event bus
	$(BIN)/python examples/08_map.py

## Check a change

test: lint docs soak  ## Everything that CI runs: these three, then the built wheel on every Python here
	$(BIN)/python tools/test_wheel.py

lint: $(VENV)/dev  ## Check format, style, spelling, types, and the rules of trio
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell .
	$(BIN)/mypy
	PATH="$$PWD/$(BIN):$$PATH" pyright tests/typing  # it asks the first Python on PATH
	$(BIN)/flake8 trio_events tests examples benchmarks

quick: $(VENV)/dev  ## Run the tests on the source tree: make quick [ARGS='-k name']
	$(BIN)/pytest $(ARGS)

soak: $(VENV)/dev  ## Run random tasks on one bus and check that nothing is left: make soak [SECONDS=20]
	$(BIN)/python tests/soak.py --seconds $(SECONDS)

soak-map: $(VENV)/dev  ## Leave the live map open at 1,000 events per second: make soak-map SECONDS=3600
	$(BIN)/python tests/soak_map.py --seconds $(SECONDS)

docs: $(VENV)/dev  ## Build the documentation: build/docs/html/index.html
	rm -rf build/docs
	$(BIN)/sphinx-build -M html docs build/docs --quiet --fresh-env --fail-on-warning --keep-going
	TRIO_EVENTS_SITE=build/docs/html $(BIN)/pytest -q tests/site/test_built_site.py
	@echo build/docs/html/index.html

format: $(VENV)/dev  ## Format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: $(VENV)/dev  ## Find small changes of the core that no test notices (an hour)
	$(PIP) install --group mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results

clean:  ## Remove everything that these commands made
	rm -rf $(VENV) $(BENCH) $(NEWEST) build mutants .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -r {} +

## Measure

bench: $(BENCH)/made $(NEWEST)/made  ## Compare with other libraries; `make docs` shows the figures (minutes)
	$(BENCH)/bin/python -m benchmarks.run
	$(NEWEST)/bin/python -m benchmarks.run --quick --table docs/benchmarks/newest.json

bench-quick: $(BENCH)/made  ## Measure only the ratios that have a target, in a minute
	$(BENCH)/bin/python -m benchmarks.run --quick

bench-against: $(BENCH)/made  ## Measure this commit and another one in one run: make bench-against REV=...
	$(BENCH)/bin/python -m benchmarks.against $(REV)

bench-growth: $(BENCH)/made  ## Measure what grows with subscriptions, senders, readers (minutes)
	$(BENCH)/bin/python -m benchmarks.growth

bench-routing: $(VENV)/dev  ## Measure routing and permissions
	$(BIN)/python benchmarks/routing.py

bench-requests: $(VENV)/dev  ## Measure a request while others are pending
	$(BIN)/python benchmarks/requests.py

bench-bridge: $(VENV)/dev  ## Measure events between two processes, over SQLite and over a server (a minute)
	$(PIP) install --group bench-bridge
	$(BIN)/python benchmarks/bridges.py

bench-telemetry: $(VENV)/dev  ## Measure what OpenTelemetry costs for an event with one handler
	$(BIN)/python -m benchmarks.telemetry

instructions: $(BENCH)/made  ## Count the CPU instructions of an event: make instructions [REV=...]
	$(BENCH)/bin/python -m benchmarks.instructions $(if $(REV),--against $(REV))

profile: $(BENCH)/made  ## Show where the time goes when ten subscribers read
	$(BENCH)/bin/python -m benchmarks.profiling

# Each of these files marks a step that is done; pyproject.toml says what goes into it.

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"This is Python %d.%d, and 3.11 is needed: make PYTHON=..." % sys.version_info[:2])'
	@echo "Making $(VENV): once, about half a minute."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade pip
	@touch $@

$(VENV)/demo: $(VENV)/made pyproject.toml
	@echo "Installing trio_events and what its examples use into $(VENV)."
	@$(PIP) install --editable '.[examples,redis,devtools,telemetry]'
	@touch $@

$(VENV)/dev: $(VENV)/demo
	@echo "Installing the tools of development into $(VENV): once, about a minute."
	@$(PIP) install --group tests --group tests-redis --group lint --group docs
	@touch $@

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
