"""What Airflow connections lack before they are used to load."""

from __future__ import annotations

import json
from typing import Any


def limit_connect_time(connection: Any, key: str, seconds: int) -> None:
    """Give an Airflow connection a limit for connecting in its extra, unless it has one.

    :param key: the driver's name for it.
    """
    extra = connection.extra_dejson
    if key not in extra:
        connection.extra = json.dumps({**extra, key: seconds})
