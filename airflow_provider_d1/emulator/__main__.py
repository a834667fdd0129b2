"""``python -m airflow_provider_d1.emulator --database shop=seed.sql``: a local D1 API until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from airflow_provider_d1.emulator import faults

try:
    from airflow_provider_d1.emulator.seeds import SeedError
    from airflow_provider_d1.emulator.server import DEFAULT_ACCOUNT_ID, DEFAULT_TOKEN, Emulator
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is missing; the emulator needs pip install 'airflow-provider-d1[emulator]'")


def _database(text: str) -> tuple[str, Path | None]:
    name, equals, _ = text.partition("=")
    return (name, None) if name and not equals else _named_file(text)


def _named_file(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path} does not exist")
    return name, Path(path)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if speed <= 0:
        raise argparse.ArgumentTypeError(f"speed must be above 0, not {text}")
    return speed


def _fault(text: str) -> dict[str, Any]:
    try:
        return dict(faults.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_d1.emulator", description="A local Cloudflare D1 API for demos and DAG tests."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--token", default=DEFAULT_TOKEN, help="the API token (default: %(default)s)")
    parser.add_argument("--account", default=DEFAULT_ACCOUNT_ID, help="the account's id (default: %(default)s)")
    parser.add_argument(
        "--email",
        default="user@example.com",
        help="e-mail address with which the token works as a Global API Key (default: %(default)s)",
    )
    parser.add_argument(
        "--database",
        metavar="NAME[=SEED]",
        type=_database,
        action="append",
        default=[],
        help="a database, from an .sql script or dump, a .sqlite or .db file, or a .json list of statements",
    )
    parser.add_argument(
        "--dump",
        metavar="NAME=FILE",
        type=_named_file,
        action="append",
        default=[],
        help="an .sql file that every export of that database returns unchanged",
    )
    parser.add_argument(
        "--fault",
        metavar="NAME[=VALUE]",
        type=_fault,
        action="append",
        default=[],
        help="a failure to simulate: " + ", ".join(faults.Faults.names()),
    )
    parser.add_argument(
        "--speed", type=_speed, default=1.0, help="emulator seconds in one real second (default: %(default)s)"
    )
    parser.add_argument(
        "--cancel-after",
        type=float,
        default=15.0,
        help="seconds without a poll after which an export or import is cancelled (default: %(default)s)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit code is 1 for a seed that cannot be read or a port that is taken."""
    given = _parser().parse_args(arguments)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    emulator = Emulator(
        given.token,
        given.account,
        dict(given.database),
        dumps=dict(given.dump),
        faults={name: value for fault in given.fault for name, value in fault.items()},
        email=given.email,
        host=given.host,
        port=given.port,
        speed=given.speed,
        cancel_after=given.cancel_after,
    )
    try:
        with emulator:
            names = ", ".join(emulator.database_ids()) or "no databases"
            print(f"D1 emulator ready at {emulator.url} (account {emulator.account_id}: {names})", flush=True)  # noqa: T201 - what a command line is for
            stop.wait()
    except (SeedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - what a command line is for
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
