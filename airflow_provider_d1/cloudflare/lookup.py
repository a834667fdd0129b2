"""Find databases by name or UUID, as plans of calls that either client can run.

A plan is a generator: it yields a :class:`~airflow_provider_d1.cloudflare.messages.Call`, receives what was read from
the response (or the error), and returns its result. So the steps are written once for threads and event loops.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_d1.cloudflare import protocol
from airflow_provider_d1.cloudflare.messages import Call
from airflow_provider_d1.exceptions import D1ApiError, D1ConfigurationError, D1DatabaseNotFoundError
from airflow_provider_d1.validation import suggest

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import Database
    from airflow_provider_d1.cloudflare.protocol import DatabasePage

T = TypeVar("T")
Plan = Generator[Call, Any, T]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def all_databases(account_id: str, name: str | None = None, *, exactly: bool = False) -> Plan[list[Database]]:
    """Every page of the account's databases, or of those that a search for ``name`` finds.

    :param exactly: only the database of exactly that name; the listing ends there, as names are unique in an account.
    """
    found: dict[str, Database] = {}
    page = 1
    while True:
        listing: DatabasePage = yield Call(
            protocol.list_databases(account_id, page=page, name=name), protocol.read_databases
        )
        before = len(found)
        found.update((database.uuid, database) for database in listing.databases)
        match = [database for database in listing.databases if database.name == name]
        if exactly and match:
            return match
        # A page without new databases ends the listing: the totals can be absent, and change during the listing.
        if listing.last or len(found) == before or (listing.total is not None and len(found) >= listing.total):
            return [] if exactly else list(found.values())
        page += 1


def one_database(account_id: str, name_or_uuid: str) -> Plan[Database]:
    """The database of exactly this UUID or name.

    :raises D1DatabaseNotFoundError: with the nearest names of the account, when there are some.
    """
    if not name_or_uuid:
        raise D1ConfigurationError("no database given: pass database=…, or set the connection's schema field")
    if _UUID.fullmatch(name_or_uuid):
        try:
            database: Database = yield Call(
                protocol.get_database(account_id, name_or_uuid.lower()), protocol.read_database
            )
        except D1DatabaseNotFoundError:
            pass  # a name may look like a UUID
        else:
            return database
    found = yield from all_databases(account_id, name_or_uuid, exactly=True)
    if found:
        return found[0]
    near = yield from _names(account_id)
    raise D1DatabaseNotFoundError(
        f"the account has no D1 database {name_or_uuid!r}{suggest(name_or_uuid, near)}", status=404
    )


def _names(account_id: str) -> Plan[list[str]]:
    try:
        # One page is enough for a hint: an account may have 50,000 databases.
        page = yield Call(protocol.list_databases(account_id), protocol.read_databases)
    except D1ApiError:
        return []
    return [database.name for database in page.databases]
