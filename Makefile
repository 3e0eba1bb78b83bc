# Each target is a thin call of `python -m local …` or of a tool in the virtual environment.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
UV := $(VENV)/bin/uv
STACK ?= local
PLUGINS ?= any

.DEFAULT_GOAL := help
.PHONY: help up preview status token monitor costs restore drill demo review env logs down tenant attack check test bench lint style types docs lock \
  images manifests

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | column -t -s '	'

$(VENV)/.ready: requirements.lock
	@echo "Installing the pinned Python packages into $(VENV) …" >&2
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@awk '/^uv==/,!/\\$$/' $< | $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r /dev/stdin
	@$(UV) pip install --quiet --python $(PYTHON) --no-deps --require-hashes --compile-bytecode -r $<
	@touch $@

up: $(VENV)/.ready ## bring up cluster, platform and tenants on this machine (PLUGINS=official refuses stand-ins)
	@$(PYTHON) -m local up --plugins $(PLUGINS)

preview: $(VENV)/.ready ## show what `up` would change (STACK=prod: the whole production plan, no server needed)
	@$(PYTHON) -m local preview --stack $(STACK) --plugins $(PLUGINS)

monitor: $(VENV)/.ready ## start Prometheus and the logs' collector beside the platform; what it scrapes, shows and warns of
	@$(PYTHON) -m local monitor

costs: $(VENV)/.ready ## what each tenant has cost, by the ledger (MONTH=2026-11; ARGS="--json", --csv, --invoice FILE)
	@$(PYTHON) -m local costs $(if $(MONTH),--month $(MONTH)) $(ARGS)

restore: $(VENV)/.ready ## bring back what a tenant had: TENANT=acme WHAT=database|objects|secrets AT=2026-11-28T10:00Z
	@$(PYTHON) -m local restore $(TENANT) $(WHAT) --at "$(AT)" $(if $(YES),--yes $(YES))

drill: $(VENV)/.ready ## destroy what disasters destroy, bring it back, compare (DATA=lose: everything but object storage)
	@$(PYTHON) -m local drill $(if $(filter lose,$(DATA)),--lose-data)

demo: $(VENV)/.ready ## the tour: a machine sleeps, is woken by a request, idles and is suspended, as it happens
	@$(PYTHON) -m local demo

review: $(VENV)/.ready ## what this checkout changes for whom against BASE=<git ref> (STACK=prod: no server needed)
	@$(PYTHON) -m review --base "$(BASE)" --stack $(STACK) --plugins $(PLUGINS)

status: $(VENV)/.ready ## servers as they are now, and which tenants are awake and why
	@$(PYTHON) -m local status

token: $(VENV)/.ready ## a token for a tenant's URL, valid for an hour (TENANT=console: for the operators' page)
	@$(PYTHON) -m local token "$(TENANT)"

env: $(VENV)/.ready ## export lines for kubectl, psql, bao, aws, redis-cli: eval "$$(make env)"
	@$(PYTHON) -m local env

logs: $(VENV)/.ready ## follow the servers' logs (SERVER=name for one)
	@$(PYTHON) -m local logs $(SERVER)

down: $(VENV)/.ready ## stop the servers; the data stays (DATA=delete removes it too)
	@$(PYTHON) -m local down $(if $(filter delete,$(DATA)),--delete-data)

tenant: $(VENV)/.ready ## edit the roster: ARGS="add acme --tier enterprise", ARGS=-h for more
	@$(PYTHON) -m local tenant $(ARGS)

attack: $(VENV)/.ready ## try, as every tenant, to get at what is every other's (SERVER=name for one)
	@$(PYTHON) -m local attack $(SERVER)

lint: style types ## formatting, style, types, architecture contracts, workflows

style: $(VENV)/.ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(PYTHON) -m local actionlint
	$(PYTEST) -q tests/local/test_roster_schema.py

types: $(VENV)/.ready
	$(VENV)/bin/mypy

# The longest first; what each printed comes whole when it ends, and the first to fail ends the run.
SIDE_BY_SIDE := $(MAKE) --no-print-directory --output-sync=target

# A group is a process: the servers that a group starts share a data folder with nobody else's. `tests/local` stands
# for its own files alone.
LONGEST := tests/infra/servers tests/infra tests/services tests/policy types tests/local/node_agent tests/review tests/costs \
  tests/local/servers tests/local/providers style
CHECKED := $(filter types style tests/infra tests/policy tests/review tests/costs,$(LONGEST))
ALL_TESTS := $(patsubst %/__init__.py,%,$(wildcard tests/*/__init__.py tests/local/*/__init__.py))
GROUPS_OF_TESTS := tests/infra/servers $(filter-out tests/integration,$(ALL_TESTS))
PYTEST := $(VENV)/bin/pytest --durations=5 --durations-min=2
.PHONY: $(ALL_TESTS) tests/infra/servers

check: $(VENV)/.ready ## lint, unit and policy tests: before each commit
	@$(SIDE_BY_SIDE) --jobs=2 $(CHECKED)

# Three at a time: tests with servers wait more than they work.
test: $(VENV)/.ready ## everything that guards the project
	@$(SIDE_BY_SIDE) --jobs=3 $(LONGEST) $(filter-out $(LONGEST),$(GROUPS_OF_TESTS))
	@$(MAKE) --no-print-directory tests/integration

# Of tests/infra, the tests that start servers are a group of their own.
OF_GROUP = $(if $(filter tests/local,$@),$(wildcard tests/local/test_*.py),$@)
tests/infra: OF_GROUP = -m "not servers" $@
tests/infra/servers: OF_GROUP = -m servers tests/infra

$(GROUPS_OF_TESTS): $(VENV)/.ready
	@echo "pytest $@"
	@$(PYTEST) $(OF_GROUP)

# Its files on two platforms, each brought up once; a file runs on one of them as a whole, the longest come first.
# Where machines boot and sleep by the clock, nothing else runs beside them.
STORIES := $(patsubst %,tests/integration/test_%.py,lifecycle interruption attack layers)
BY_THE_CLOCK := tests/integration/test_real_guests.py tests/integration/test_sleep_and_wake.py
tests/integration: $(VENV)/.ready
	@echo "pytest $@"
	@$(PYTEST) --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
	  $(STORIES) $(filter-out $(STORIES) $(BY_THE_CLOCK),$(wildcard tests/integration/test_*.py))
	@$(PYTEST) $(BY_THE_CLOCK)

bench: $(VENV)/.ready ## figures, each against a floor or a peer in the same run (NAME=gateway for one); the last line is JSON
	@$(PYTHON) -m local bench $(NAME)

docs: $(VENV)/.ready ## make docs/policies.md from the rules
	@$(PYTHON) -m policy.table

lock: $(VENV)/.ready ## resolve requirements.txt into requirements.lock
	@$(UV) pip compile --quiet --generate-hashes --no-emit-index-url --python-version 3.11 --universal --override requirements-overrides.txt requirements.txt -o requirements.lock

images: $(VENV)/.ready ## build the machine disk and the containers (NAME=agent-machine for one)
	@$(PYTHON) -m images build $(NAME)

manifests: $(VENV)/.ready ## regenerate the vendored KubeVirt manifest from its pinned module
	@$(PYTHON) -m local manifests
