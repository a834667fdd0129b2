"""The object store has a bad day."""

from __future__ import annotations

import hashlib

from harness.s3_faults import Fault
from tests.system.environment import BIG, HUGE, Environment


def test_s3_asks_to_slow_down(environment: Environment) -> None:
    with environment.scenario("s3_slow_down") as scenario:
        scenario.proxy.faults.append(Fault("PUT", "part-", "slow_down", times=2))
        run = scenario.run()
        scenario.succeeds(run)
        assert scenario.proxy.count("PUT", "part-", 503) == 2
        assert scenario.exports() == scenario.attempts(run) == 1


def test_s3_drops_the_connection_in_part_3_of_an_upload(environment: Environment) -> None:
    with environment.scenario("s3_drops_multipart", HUGE) as scenario:
        scenario.proxy.faults.append(Fault("PUT", "partNumber=3", "drop", times=1))
        run = scenario.run()
        manifest = scenario.succeeds(run)
        assert scenario.proxy.count("PUT", "partNumber=3", 0) == 1
        assert scenario.proxy.count("PUT", "partNumber=", 200) == 4  # only the one that was dropped is sent again
        content = scenario.read(manifest["files"][0]["uri"].removeprefix(f"s3://{scenario.bucket}/"))
        assert hashlib.sha256(content).hexdigest() == manifest["dump"]["sha256"]
        assert scenario.exports() == scenario.attempts(run) == 1


def test_s3_drops_the_connection_in_the_third_file(environment: Environment) -> None:
    with environment.scenario("s3_drops_part", BIG) as scenario:
        scenario.proxy.faults.append(Fault("PUT", "part-00002", "drop", times=1))
        run = scenario.run()
        scenario.succeeds(run)
        assert scenario.proxy.count("PUT", "part-00002", 0) == 1
        assert scenario.exports() == scenario.attempts(run) == 1


def test_s3_refuses_the_manifest(environment: Environment) -> None:
    with environment.scenario("s3_denies_manifest") as scenario:
        scenario.proxy.faults.append(Fault("PUT", "_manifest.json", "access_denied"))
        run = scenario.run()
        assert "AccessDenied" in scenario.fails(run)
        assert scenario.proxy.count("PUT", "part-", 200) == 3  # what stood then, and is gone
        assert scenario.exports() == scenario.attempts(run) == 1
        scenario.nothing_staged()


def test_the_bucket_does_not_exist(environment: Environment) -> None:
    with environment.scenario("s3_no_bucket") as scenario:
        run = scenario.run()
        assert "NoSuchBucket" in scenario.fails(run)
        assert scenario.attempts(run) == 1  # a retry would find the same
        assert scenario.exports() == 0  # noticed before the database is blocked
        assert scenario.proxy.count("PUT", "") == 0
