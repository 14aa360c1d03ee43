# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Which release 2 the drill rolls out: bad (a third of its tasks fail) or good.
RELEASE ?= bad
# Which molecule scenario `make molecule` runs.
SCENARIO ?= default

MAKEFLAGS += --no-print-directory
LINK := build/ansible_collections/queueops/fleet

.DEFAULT_GOAL := help
.PHONY: help drill test lint unit contract contract-sample managers crash faults molecule molecule-confirm molecule-faults molecule-routes molecule-payloads bench bench-queues bench-hosts requirements clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

drill: $(LINK) ## rehearse a rollback on this machine: real Redis, real workers, three hosts (RELEASE=bad|good)
	@scripts/venv.sh drill
	@exec .venv/drill/bin/python scripts/drill.py --release "$(RELEASE)"

test: $(LINK) ## everything CI checks: lint, unit, a sample of the contract, service managers, molecule
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/stages.py lint unit contract-sample managers molecule molecule-confirm

lint: $(LINK) ## ansible-lint, ruff, mypy, yamllint, import-linter, ansible-test sanity
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/lint.py

unit: $(LINK) ## unit tests, against a real Redis, real workers and a real browser
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/unit.py $(ARGS)

contract: $(LINK) ## every queue system on every version of its server, with real workers, dying at every step (long)
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/contract.py $(ARGS)

contract-sample: $(LINK) ## a sample of the same, on one version of each server
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/contract.py --sample $(ARGS)

managers: $(LINK) ## the contract of the service managers on real ones; needs Docker Engine
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/managers.py $(ARGS)

crash: $(LINK) ## SIGKILL after every operation of every phase on a host, and power loss (some minutes)
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/crash.py $(ARGS)

faults: $(LINK) ## all tests of the playbooks, every fault x deploy and rollback and every event among them; `unit` runs a sample (long)
	@scripts/venv.sh test
	@exec env QUEUEOPS_EXHAUSTIVE=1 .venv/test/bin/python scripts/unit.py $(or $(ARGS),tests/unit/playbooks)

molecule: $(LINK) ## the whole story in containers (Debian 13, systemd, Redis 8); needs Docker Engine
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/scenario.py "$(SCENARIO)" $(ARGS)

molecule-confirm: $(LINK) ## the confirm timer in containers: the controller dies after the switch, the host is restarted
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/scenario.py confirm $(ARGS)

molecule-faults: $(LINK) ## hosts killed, frozen, cut off and full x deploy and rollback, the fence, the resume, in containers (long)
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/scenario.py faults $(ARGS)

molecule-routes: $(LINK) ## tasks divided among versions in containers: RQ on Redis 8, Celery on RabbitMQ 4, feature gates (long)
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/scenario.py routes $(ARGS)

molecule-payloads: $(LINK) ## tasks that only the new version can read, 500 among 5,000, in containers: RQ and Celery
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/scenario.py payloads $(ARGS)

bench: $(LINK) ## measure the rollback against a hand-written playbook and the physical floor (ARGS="--hosts 3 10 30 --write")
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/bench.py $(ARGS)

bench-queues: $(LINK) ## measure the redrives against each queue system's own way (ARGS="--write": into the docs)
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/bench_tables.py queues $(ARGS)

bench-hosts: $(LINK) ## measure the config history against git, etckeeper and rsync, and the modules against a ping
	@scripts/venv.sh test
	@exec .venv/test/bin/python scripts/bench_tables.py hosts $(ARGS)

requirements: ## pin requirements/*.txt anew from requirements/*.in
	@scripts/pin.sh drill test worker

clean: ## remove build/ and .venv/
	rm -rf build .venv .ansible

$(LINK):
	@mkdir -p $(@D)
	@ln -sfn ../../.. $@
