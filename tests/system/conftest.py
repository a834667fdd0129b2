"""One Airflow with its metadata in Postgres, one S3 server; all scenarios run in it at once.

A scenario is a test that takes ``night``. All that were collected start together when the first is asked for; a test
then waits for its own and shows how it ended. So the order of the tests does not matter, and each scenario has an
emulator, an API token, a connection, a DAG and an S3 prefix of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.airflow import airflow_deployment
from harness.postgres import postgres_server
from harness.seaweed import s3_server
from tests.system.night import PATIENCE, Night

DAGS = Path(__file__).parent / "dags"
BUCKET = "night"


@pytest.fixture(scope="session")
def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("night")
    scenarios = {item.nodeid: item for item in request.session.items if is_scenario(item)}
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server(folder / "s3"))
        postgres = stack.enter_context(postgres_server(folder / "postgres"))
        metadata = (
            f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{postgres.database}"
        )
        airflow = stack.enter_context(airflow_deployment(folder / "airflow", DAGS, sql_alchemy_conn=metadata))
        s3.client().create_bucket(Bucket=BUCKET)
        airflow.wait_for_dag("two_at_once", PATIENCE)
        night = stack.enter_context(Night(airflow, s3, BUCKET, postgres))
        for nodeid, item in scenarios.items():
            night.start(nodeid, item.obj, **callspec(item))
        yield night


def is_scenario(item: pytest.Item) -> bool:
    return "night" in getattr(item, "fixturenames", ()) and item.get_closest_marker("afterwards") is None


def callspec(item: pytest.Item) -> dict[str, object]:
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Wait for the scenario instead of running it now."""
    if not is_scenario(pyfuncitem):
        return None
    pyfuncitem.funcargs["night"].result(pyfuncitem.nodeid)
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What lasts longest begins first; what looks at the remains comes after the scenarios."""
    lasting = ("test_load.py", "test_triggerer.py")
    items.sort(key=lambda item: (item.get_closest_marker("afterwards") is not None, item.path.name not in lasting))
