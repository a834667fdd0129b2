"""Read the secret key for backups that are encrypted with age from an Airflow connection."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.hooks.masking import mask
from airflow_provider_d1.staging.encryption import parse_identities, secret_lines


def read_age_key(conn_id: str | None) -> Secret | None:
    """The password of a connection of any type: secret keys of age, one in each line. Masked in the logs.

    :param conn_id: None for no key.
    :raises D1ConfigurationError: when there is no such connection, or its password has another form; names the
        connection and shows nothing of the password.
    """
    if conn_id is None:
        return None
    try:
        # no variable for the connection, whose repr shows the password
        key = Secret(BaseHook.get_connection(conn_id).password or "")
    except AirflowNotFoundException:
        raise D1ConfigurationError(
            f"age_conn_id: connection {conn_id!r} is not defined, expected one whose password is the age secret key"
        ) from None
    for line in secret_lines(key):
        mask(line)
    try:
        parse_identities(key)
    except D1ConfigurationError as error:
        raise D1ConfigurationError(f"Connection {conn_id!r}: {error}") from None
    return key
