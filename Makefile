# Everything runs in .venv (tests) or .venv-demo (demo); nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
WAREHOUSE ?= duckdb

.PHONY: demo test lint types unit integration test-system test-airflow2 test-newest mutation bench audit pins changelog clean

$(VENV)/.ready: requirements/dev.txt requirements/bootstrap.txt pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -r requirements/dev.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps -e .
	touch $@

# D1 -> S3 -> warehouse through a real Airflow DAG; WAREHOUSE=postgres for the other one
demo: .venv-demo/.ready
	.venv-demo/bin/python -m demo $(WAREHOUSE)

.venv-demo/.ready: requirements/demo.txt requirements/bootstrap.txt pyproject.toml
	test -x .venv-demo/bin/python || $(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	.venv-demo/bin/uv pip install --quiet --python .venv-demo/bin/python -r requirements/demo.txt
	.venv-demo/bin/uv pip install --quiet --python .venv-demo/bin/python --no-deps -e .
	touch $@

test: lint types unit integration

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

types: $(VENV)/.ready
	$(VENV)/bin/mypy

unit: $(VENV)/.ready
	$(VENV)/bin/python -m pytest tests/unit

integration: $(VENV)/.ready
	$(VENV)/bin/python -m pytest tests/integration

# one Airflow, one S3 server, and all that can go wrong; takes minutes
test-system: $(VENV)/.ready
	$(VENV)/bin/python -m pytest tests/system

# the oldest Airflow that is supported, in an environment of its own; needs Python 3.11 or 3.12
test-airflow2: .venv-airflow2/.ready
	.venv-airflow2/bin/python -m pytest tests/airflow2

.venv-airflow2/.ready: requirements/airflow2.txt requirements/bootstrap.txt pyproject.toml
	test -x .venv-airflow2/bin/python || $(PYTHON) -m venv .venv-airflow2
	.venv-airflow2/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	.venv-airflow2/bin/uv pip install --quiet --python .venv-airflow2/bin/python -r requirements/airflow2.txt
	.venv-airflow2/bin/uv pip install --quiet --python .venv-airflow2/bin/python --no-deps -e .
	touch $@

# the unit tests on the newest Python of this machine, which must be newer than 3.11
test-newest: .venv-newest/.ready
	.venv-newest/bin/python -m pytest tests/unit

.venv-newest/.ready: requirements/dev.txt pyproject.toml .ci/newest_python.py | $(VENV)/.ready
	test -x .venv-newest/bin/python || { newest=$$($(VENV)/bin/python .ci/newest_python.py) && $$newest -m venv .venv-newest; }
	$(VENV)/bin/uv pip install --quiet --python .venv-newest/bin/python -r requirements/dev.txt
	$(VENV)/bin/uv pip install --quiet --python .venv-newest/bin/python --no-deps -e .
	touch $@

# switches off one protection after the other and shows that a test fails for each
mutation: $(VENV)/.ready
	$(VENV)/bin/python -m tests.mutation.run

# every figure of benchmarks/README.md; wants a quiet machine, about 20 minutes and 30 GB of disk
bench: $(VENV)/.ready
	$(VENV)/bin/python -m benchmarks.dump_to_parquet --size 500M --pairs 5 --formats --memory-size 2G
	$(VENV)/bin/python -m benchmarks.dump_to_parquet --size 2G --pairs 3
	$(VENV)/bin/python -m benchmarks.stage_to_s3 --size 2G --pairs 3
	$(VENV)/bin/python -m benchmarks.warehouse_load --pairs 5
	$(VENV)/bin/python -m benchmarks.import_time

# the pinned dependencies against PyPI's list of known vulnerabilities; exit code 3 where there is no such list
audit: $(VENV)/.ready
	$(VENV)/bin/python .ci/audit.py

pins: $(VENV)/.ready
	for extra in demo dev; do $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --extra $$extra \
	  --no-header --no-annotate --no-emit-package airflow-provider-d1 -o requirements/$$extra.txt pyproject.toml; done
	$(VENV)/bin/uv pip compile --quiet --python-version 3.11 --extra emulator --no-header --no-annotate \
	  --no-emit-package airflow-provider-d1 -o requirements/airflow2.txt pyproject.toml requirements/airflow2.in

# the fragments of changelog.d/ as one list; VERSION=1.2.3 moves them into CHANGELOG.md
changelog: $(VENV)/.ready
ifdef VERSION
	$(VENV)/bin/towncrier build --yes --version $(VERSION)
else
	$(VENV)/bin/towncrier build --draft
endif

clean:
	rm -rf $(VENV) .venv-demo .venv-airflow2 .venv-newest .cache
