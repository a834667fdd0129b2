"""One Airflow with its metadata in Postgres, one S3 server and one Redis; all scenarios run in it concurrently.

A scenario is a test that uses ``environment``. All collected scenarios start when the first one is requested; each test
then waits for its own scenario and reports its result. So the order of the tests does not matter. Each scenario has its
own emulator, API token, connection, DAG and S3 prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.airflow import airflow_deployment
from harness.postgres import postgres_server
from harness.redis import redis_missing, redis_server
from harness.seaweed import s3_server
from tests.system.environment import TIMEOUT, Environment

DAGS = Path(__file__).parent / "dags"
BUCKET = "system-tests"


@pytest.fixture(scope="session")
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("system")
    scenarios = {item.nodeid: item for item in request.session.items if is_scenario(item)}
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server(folder / "s3"))
        postgres = stack.enter_context(postgres_server(folder / "postgres"))
        metadata = (
            f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{postgres.database}"
        )
        settings = {}
        if redis_missing() is None:
            redis = stack.enter_context(redis_server(folder / "redis"))
            settings = {
                "AIRFLOW__CORE__EXECUTOR": "LocalExecutor,CeleryExecutor",
                "AIRFLOW__CELERY__BROKER_URL": redis,
                "AIRFLOW__CELERY__RESULT_BACKEND": redis,
                "AIRFLOW__CELERY__SYNC_PARALLELISM": "1",
            }
        airflow = stack.enter_context(
            airflow_deployment(folder / "airflow", DAGS, sql_alchemy_conn=metadata, settings=settings)
        )
        s3.client().create_bucket(Bucket=BUCKET)
        airflow.wait_for_dag("two_at_once", TIMEOUT)
        environment = stack.enter_context(Environment(airflow, s3, BUCKET, postgres))
        for nodeid, item in scenarios.items():
            environment.start(nodeid, item.obj, **callspec(item))
        yield environment


def is_scenario(item: pytest.Item) -> bool:
    return "environment" in getattr(item, "fixturenames", ()) and item.get_closest_marker("afterwards") is None


def callspec(item: pytest.Item) -> dict[str, object]:
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Wait for the scenario instead of running it now."""
    if not is_scenario(pyfuncitem):
        return None
    pyfuncitem.funcargs["environment"].result(pyfuncitem.nodeid)
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest scenarios first; run what inspects the remains after all scenarios."""
    lasting = ("test_load.py", "test_celery.py", "test_triggerer.py")
    items.sort(key=lambda item: (item.get_closest_marker("afterwards") is not None, item.path.name not in lasting))
