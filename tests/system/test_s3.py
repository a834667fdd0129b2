"""The object store has a bad day."""

from __future__ import annotations

import hashlib

from harness.s3_faults import Fault
from tests.system.night import BIG, HUGE, Night


def test_s3_asks_to_slow_down(night: Night) -> None:
    with night.bed("s3_slow_down") as bed:
        bed.proxy.faults.append(Fault("PUT", "part-", "slow_down", times=2))
        run = bed.run()
        bed.succeeds(run)
        assert bed.proxy.count("PUT", "part-", 503) == 2
        assert bed.exports() == bed.tries(run) == 1


def test_s3_drops_the_connection_in_part_3_of_an_upload(night: Night) -> None:
    with night.bed("s3_drops_multipart", HUGE) as bed:
        bed.proxy.faults.append(Fault("PUT", "partNumber=3", "drop", times=1))
        run = bed.run()
        manifest = bed.succeeds(run)
        assert bed.proxy.count("PUT", "partNumber=3", 0) == 1
        assert bed.proxy.count("PUT", "partNumber=", 200) == 4  # only the one that was dropped is sent again
        content = bed.read(manifest["files"][0]["uri"].removeprefix(f"s3://{bed.bucket}/"))
        assert hashlib.sha256(content).hexdigest() == manifest["dump"]["sha256"]
        assert bed.exports() == bed.tries(run) == 1


def test_s3_drops_the_connection_in_the_third_file(night: Night) -> None:
    with night.bed("s3_drops_part", BIG) as bed:
        bed.proxy.faults.append(Fault("PUT", "part-00002", "drop", times=1))
        run = bed.run()
        bed.succeeds(run)
        assert bed.proxy.count("PUT", "part-00002", 0) == 1
        assert bed.exports() == bed.tries(run) == 1


def test_s3_refuses_the_manifest(night: Night) -> None:
    with night.bed("s3_denies_manifest") as bed:
        bed.proxy.faults.append(Fault("PUT", "_manifest.json", "access_denied"))
        run = bed.run()
        assert "AccessDenied" in bed.fails(run)
        assert bed.proxy.count("PUT", "part-", 200) == 3  # what stood then, and is gone
        assert bed.exports() == bed.tries(run) == 1
        bed.nothing_staged()


def test_the_bucket_does_not_exist(night: Night) -> None:
    with night.bed("s3_no_bucket") as bed:
        run = bed.run()
        assert "NoSuchBucket" in bed.fails(run)
        assert bed.tries(run) == 1  # a retry would find the same
        assert bed.exports() == 0  # noticed before the database is blocked
        assert bed.proxy.count("PUT", "") == 0
