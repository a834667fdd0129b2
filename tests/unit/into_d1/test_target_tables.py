"""Which tables may have their rows replaced, in a database of the emulator."""

from __future__ import annotations

import pytest

from airflow_provider_d1.cloudflare.client import D1Client
from airflow_provider_d1.cloudflare.credentials import Credentials
from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.into_d1.target_tables import check_replaceable

SEED = """
CREATE TABLE "É" (id INTEGER PRIMARY KEY);
CREATE TABLE "é" (id INTEGER PRIMARY KEY);
CREATE TABLE child (id INTEGER REFERENCES "É" ON DELETE CASCADE);
"""


def test_only_ascii_letters_ignore_case_in_the_names_of_referenced_tables() -> None:
    with Emulator("tok-1", databases={"shop": SEED}) as emulator:
        credentials = Credentials(emulator.account_id, emulator.token, base_url=emulator.url)
        with D1Client(credentials) as client:
            database_id = emulator.database_id("shop")
            check_replaceable(client, database_id, ["é"])
            check_replaceable(client, database_id, ["É", "CHILD"])
            with pytest.raises(D1ConfigurationError, match="'child' references 'É'"):
                check_replaceable(client, database_id, ["É"])
