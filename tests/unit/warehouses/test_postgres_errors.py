"""Which of Postgres's errors another attempt may mend: what no real server can be made to say in a test."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from airflow_provider_d1.warehouses.postgres_errors import is_permanent, remedy


def test_too_few_locks_is_a_setting_and_no_passing_shortage() -> None:
    too_few = errors.OutOfMemory("out of shared memory\nHINT:  You might need to increase max_locks_per_transaction.")
    assert is_permanent(too_few)
    assert "tables=" in remedy(str(too_few))
    assert not is_permanent(errors.OutOfMemory("out of memory"))


@pytest.mark.parametrize("state", ["2BP01", "42P06", "42P07"])
def test_a_race_with_another_session_is_no_lasting_error(state: str) -> None:
    assert not is_permanent(errors.lookup(state)("raced"))


def test_an_error_that_the_server_did_not_send_is_retried() -> None:
    assert not is_permanent(psycopg.OperationalError("server closed the connection unexpectedly"))


def test_a_policy_that_applies_to_the_loader_is_explained() -> None:
    error = errors.InsufficientPrivilege('query would be affected by row-level security policy for table "t"')
    assert "BYPASSRLS" in remedy(str(error))
    assert is_permanent(error)
