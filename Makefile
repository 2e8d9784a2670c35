# Nubila: 'make help' lists what there is.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

NAME ?= nubila
# Empty: as it was installed, else 8440 and 10.77.0.0/24.
PORT ?=
SUBNET ?=
LISTEN ?=
CONTROL ?=
ACCEPT ?=
PACKAGES ?=
# 'make check T=tests/unit/test_ids.py', 'make test T=tests/up': only those tests
T ?=

PYTHON := .venv/bin/python
INSTALL = $(PYTHON) -m nubila
WHICH = --name "$(NAME)" --port "$(PORT)" --subnet "$(SUBNET)" --listen "$(LISTEN)" --control "$(CONTROL)" --accept "$(ACCEPT)"
FAST := $(wildcard tests/unit tests/cli tests/api tests/agent)
# what is real there lives in namespaces and directories of its own, so that two may run at once
APART := $(wildcard tests/drivers tests/crash)

.PHONY: help setup up join lab lab-down down destroy check test long exhaustive simulate dev shell bench docs lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo "  NAME=nubila PORT=8440 SUBNET=10.77.0.0/24 choose the installation; PACKAGES=1: see destroy"
	@echo "  LISTEN=0.0.0.0: other machines reach it, and can be joined to it"
	@echo "  ACCEPT=firewall, ACCEPT=adopt: go on despite such a finding of the preflight, which says when that is right"

up: ## your own cloud on this machine, with a VM in it; again at any time (root)
	@tools/preflight "$(NAME)" "$(PORT)" "$(SUBNET)" "$(LISTEN)" "" "$(ACCEPT)"
	@tools/setup
	@$(INSTALL) up $(WHICH) .

join: ## this machine as a node of the control plane at CONTROL=https://HOST:8442; asks for the join token (root)
	@tools/preflight "$(NAME)" "" "" "" "$(CONTROL)" "$(ACCEPT)"
	@tools/setup
	@$(INSTALL) join $(WHICH) .

lab: setup ## a control plane and three hosts on this machine, made of namespaces; 'nubila lab --help' (root)
	@$(INSTALL) lab up

lab-down: setup ## remove the lab and all that is in it (root)
	@$(INSTALL) lab down

down: ## stop control plane, database and agent; VMs go on (root)
	@if [ -x $(PYTHON) ]; then $(INSTALL) down $(WHICH) .; else echo "Nothing was installed from this clone."; fi

destroy: setup ## remove all that Nubila made here, VMs too; PACKAGES=1: also Debian packages it installed (root)
	@$(INSTALL) destroy $(WHICH) $(if $(PACKAGES),--packages) .

check: setup ## lint, types, import contracts, unit tests: under a minute
	@$(PYTHON) tools/packages quick
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check --quiet .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache
	@tools/pytest 300 -n 2 -m 'not real and not slow' $(or $(T),$(FAST))

# every pytest run of 'make test' adds to it; the last line prints and removes it
test: export NUBILA_COUNTS := $(CURDIR)/build/counts-$(shell date +%s)
test: check ## everything, on real libvirt, QEMU and PostgreSQL (root)
	@$(PYTHON) tools/packages
	@$(if $(T),true,tools/pytest 900 -n 2 --dist loadfile -m 'slow and not long and not real' $(FAST))
	@$(if $(T),true,tools/pytest 900 -n 2 --dist loadfile -m 'not long and not real' tests $(FAST:%=--ignore=%))
	@$(if $(T),true,tools/pytest 900 -n 2 --dist loadfile -m 'real and not long' $(APART))
	@tools/pytest 1500 -m 'real and not long' $(or $(T),tests $(APART:%=--ignore=%))
	@$(if $(T),rm -f $(NUBILA_COUNTS),$(PYTHON) -m tests.counts $(NUBILA_COUNTS))

long: setup ## every verb on real guests and repairs of real installations: what 'make test' has no time for (root)
	@$(PYTHON) tools/packages
	@tools/pytest 5400 -m long tests

exhaustive: setup ## every crash point, cancel and generated request there is, not only the sample of 'make test' (root)
	@$(PYTHON) tools/packages
	@NUBILA_EXHAUSTIVE=1 tools/pytest 10800 -s tests/crash tests/fleet/test_fleet_generated.py

simulate: setup ## SEEDS=300 schedules of faults in virtual time, from SEED=1 on; 'nubila simulate --help'
	@$(PYTHON) -m nubila simulate --seed $(or $(SEED),1) --seeds $(or $(SEEDS),300)

dev: NAME := $(if $(filter nubila,$(NAME)),nubiladev,$(NAME))
dev: PORT := $(or $(PORT),18440)
dev: ## a throw-away fabric with fake drivers and three fake nodes, in this terminal (root)
	@tools/preflight "$(NAME)" "$(PORT)" "$(SUBNET)" "" "" "firewall $(ACCEPT)"
	@tools/setup
	@$(INSTALL) dev $(WHICH) .

shell: setup ## the command-line client, in a shell that knows this clone's installation
	@PATH="$(CURDIR):$$PATH" NUBILA_CONTEXTS="$(CURDIR)/build/contexts.json" $${SHELL:-/bin/sh}

bench: setup ## measure, and write build/bench.json (root)
	@$(PYTHON) tools/packages
	@$(PYTHON) -m bench

docs: setup ## write the generated parts of docs/ from their tables
	@for tool in tools/*.py; do case $$tool in */__init__.py) ;; *) $(PYTHON) $$tool || exit 1 ;; esac; done

lock: setup ## resolve the Python packages anew, with hashes
	@"$$(cat build/uv)" pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes --no-header --no-emit-index-url --no-annotate -o requirements.lock >/dev/null

setup: # the clone's Python environment
	@tools/setup
