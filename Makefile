# Tests run in .venv, the demo in .venv-demo; nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
WAREHOUSE ?= duckdb

.DEFAULT_GOAL := help
.PHONY: help demo test lint lint-workflows types unit integration test-system test-ui screenshots test-airflow2 \
  test-matrix test-newest mutation bench audit servers pins changelog docs dist clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.* ## /\1\t/' | expand -t 18

demo: .venv-demo/.ready ## run D1 -> S3 -> warehouse as an Airflow DAG; WAREHOUSE=postgres instead of duckdb
	.venv-demo/bin/python -m demo $(WAREHOUSE)

test: lint types unit integration ## lint, types, unit and integration tests

lint: $(VENV)/.ready ## ruff, and import-linter for the architecture
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

lint-workflows: $(VENV)/.ready ## zizmor on the GitHub workflows
	$(VENV)/bin/zizmor --offline --persona pedantic .github

types: $(VENV)/.ready ## mypy, strict
	$(VENV)/bin/mypy

unit: $(VENV)/.ready ## tests that need no server and no Airflow database
	$(VENV)/bin/python -m pytest -n auto tests/unit

# for the tests, and not in any package on PyPI; where one can't be installed its tests are skipped
servers: ## install MariaDB and Redis for the tests, where apt-get may
	.ci/install_servers

integration: $(VENV)/.ready .venv-bqemulator/.ready servers ## tests with a real Airflow, S3 server and warehouses
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile tests/integration

test-system: $(VENV)/.ready servers ## failure scenarios against running Airflow components; takes minutes
	$(VENV)/bin/python -m pytest tests/system

test-ui: $(VENV)/.browser ## the provider in Airflow's UI, in a real browser; needs Chromium (apt-get install chromium)
	$(VENV)/bin/python -m pytest tests/ui

screenshots: $(VENV)/.browser ## make the pictures of docs/images; look at them before they are committed
	$(VENV)/bin/python -m tests.ui.screenshots

test-airflow2: .venv-airflow2/.ready ## tests with Airflow 2.11, the oldest supported; needs Python 3.11 or 3.12
	.venv-airflow2/bin/python -m pytest tests/versions

test-matrix: $(VENV)/.ready ## every supported Airflow with every Python of this machine; PAIRS="3.0/3.11 latest/3.13" for some
	$(VENV)/bin/python .ci/test_matrix.py $(if $(PAIRS),$(PAIRS),--write)

test-newest: .venv-newest/.ready ## unit tests on the newest Python of this machine, 3.12 or later
	.venv-newest/bin/python -m pytest -n auto tests/unit

mutation: $(VENV)/.ready .venv-bqemulator/.ready servers ## disable each safeguard in turn and check that a test fails
	$(VENV)/bin/python -m tests.mutation.run

bench: $(VENV)/.ready ## measure every figure of benchmarks/README.md; needs an idle machine and 30 GB of disk
	$(VENV)/bin/python -m benchmarks.dump_to_parquet --size 500M --pairs 5 --formats --memory-size 2G
	$(VENV)/bin/python -m benchmarks.dump_to_parquet --size 2G --pairs 3
	$(VENV)/bin/python -m benchmarks.stage_to_s3 --size 2G --pairs 3
	$(VENV)/bin/python -m benchmarks.many_tables --pairs 3
	$(VENV)/bin/python -m benchmarks.warehouse_load --pairs 5
	$(VENV)/bin/python -m benchmarks.warehouse_modes --pairs 3
	$(VENV)/bin/python -m benchmarks.load_history --pairs 3
	$(VENV)/bin/python -m benchmarks.import_time

audit: $(VENV)/.ready ## check the pinned dependencies for known vulnerabilities; exit code 3 if no list is reachable
	$(VENV)/bin/python .ci/audit.py

pins: $(VENV)/.ready ## rewrite requirements/*.txt from pyproject.toml
	for extra in demo dev; do $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --extra $$extra \
	  --no-header --no-annotate --no-emit-package airflow-provider-d1 -o requirements/$$extra.txt pyproject.toml; done
	printf '%s\n' mkdocs-material 'mkdocstrings[python]' | $(VENV)/bin/uv pip compile --quiet --universal \
	  --python-version 3.11 --no-header --no-annotate -o requirements/docs.txt -
	$(VENV)/bin/uv pip compile --quiet --upgrade --resolution lowest-direct --python-version 3.11 --extra emulator --no-header --no-annotate \
	  --no-emit-package airflow-provider-d1 -o requirements/airflow2.txt pyproject.toml requirements/airflow2.in
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
	  -o requirements/bqemulator.txt requirements/bqemulator.in

changelog: $(VENV)/.ready ## show the unreleased changes; VERSION=1.2.3 moves them into CHANGELOG.md
ifdef VERSION
	$(VENV)/bin/towncrier build --yes --version $(VERSION)
else
	$(VENV)/bin/towncrier build --draft
endif

docs: .venv-docs/.ready ## build the documentation into site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

dist: $(VENV)/.ready ## build the wheel and the sdist into dist/
	rm -rf dist
	$(VENV)/bin/python -m hatchling build

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) .venv-demo .venv-airflow2 .venv-bqemulator .venv-newest .venv-docs .cache dist site

$(VENV)/.ready: requirements/dev.txt requirements/bootstrap.txt pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements/dev.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps -e .
	touch $@

$(VENV)/.browser: requirements/ui.txt $(VENV)/.ready
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements/ui.txt
	touch $@

.venv-demo/.ready: requirements/demo.txt requirements/bootstrap.txt pyproject.toml
	test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	.venv-demo/bin/uv pip install --quiet --python .venv-demo/bin/python -r requirements/demo.txt
	.venv-demo/bin/uv pip install --quiet --python .venv-demo/bin/python --no-deps -e .
	touch $@

.venv-docs/.ready: requirements/docs.txt requirements/bootstrap.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	.venv-docs/bin/uv pip install --quiet --python .venv-docs/bin/python -r requirements/docs.txt
	touch $@

.venv-bqemulator/.ready: requirements/bqemulator.txt requirements/bootstrap.txt
	test -x .venv-bqemulator/bin/python || $(PYTHON) -m venv .venv-bqemulator
	.venv-bqemulator/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	.venv-bqemulator/bin/uv pip install --quiet --python .venv-bqemulator/bin/python -r requirements/bqemulator.txt
	touch $@

.venv-airflow2/.ready: requirements/airflow2.txt requirements/bootstrap.txt pyproject.toml
	test -x .venv-airflow2/bin/python || $(PYTHON) -m venv .venv-airflow2
	.venv-airflow2/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	.venv-airflow2/bin/uv pip install --quiet --python .venv-airflow2/bin/python -r requirements/airflow2.txt
	.venv-airflow2/bin/uv pip install --quiet --python .venv-airflow2/bin/python --no-deps -e .
	touch $@

.venv-newest/.ready: requirements/dev.txt pyproject.toml .ci/newest_python.py | $(VENV)/.ready
	test -x .venv-newest/bin/python || { newest=$$($(VENV)/bin/python .ci/newest_python.py) && $$newest -m venv .venv-newest; }
	$(VENV)/bin/uv pip install --quiet --python .venv-newest/bin/python -r requirements/dev.txt
	$(VENV)/bin/uv pip install --quiet --python .venv-newest/bin/python --no-deps -e .
	touch $@
