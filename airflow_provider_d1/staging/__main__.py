"""``python -m airflow_provider_d1.staging DUMP OUT_DIR``: stage a local dump. Does not need Airflow."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, get_args, get_type_hints

from airflow_provider_d1.exceptions import D1Error
from airflow_provider_d1.staging.manifest import MANIFEST_KEY
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import CODECS, STAGING_HELP, StagingOptions
from airflow_provider_d1.staging.stage import stage_into_folder
from airflow_provider_d1.staging.streams import UnpackingReader
from airflow_provider_d1.storage.folder import FolderStorage

if TYPE_CHECKING:
    from airflow_provider_d1.staging.progress import Progress

#: option → its default; an output folder has one run, so there is no keep_runs
_DEFAULTS = {option.name: option.default for option in fields(StagingOptions) if option.name != "keep_runs"}
#: flags that differ from the option's name
_FLAGS = {"file_format": "format", "exclude_tables": "exclude_table", "age_recipients": "age_recipient"}
#: options that are given once for each value: the value's name and the help
_REPEATED = {
    "exclude_tables": ("NAME", "table to leave out"),
    "age_recipients": ("KEY", "public key (age1…) for which a dump of the format sql is encrypted with age"),
}
_BAR_WIDTH = 30
_BAR_EVERY_SECONDS = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    The manifest's path is the last line on stdout. An error is one line on stderr, and the folder is not changed.

    :param arguments: without the program's name; by default those of the process.
    """
    options = argument_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    on_terminal = sys.stderr.isatty()
    logging.basicConfig(
        stream=sys.stderr, format="%(message)s", level=logging.WARNING if on_terminal else logging.INFO, force=True
    )
    try:
        manifest = _stage(options, on_terminal=on_terminal)
    except KeyboardInterrupt:
        return _failed("interrupted; nothing was staged", code=130)
    except _Terminated:
        return _failed("terminated; nothing was staged", code=143)
    except (D1Error, OSError) as error:
        return _failed(str(error), code=1)
    except MemoryError:
        return _failed("out of memory", code=1)
    _say(manifest)
    return 0


class _Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt it is not an Exception, so that handlers do not catch it by mistake."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _say(result: Path) -> None:
    """Print the manifest's path, which may have bytes that are not UTF-8; a closed stdout is not an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        print(result, flush=True)  # noqa: T201 # see above
    except BrokenPipeError:
        # the interpreter flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str, *, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201 # the command's error message
    return code


def _stage(options: argparse.Namespace, *, on_terminal: bool) -> Path:
    staging = StagingOptions(**{name: getattr(options, name) for name in _DEFAULTS})
    from_pipe = options.dump == "-"
    with _opened(options.dump) as file, UnpackingReader(file) as dump, _output_folder(options.out_dir) as storage:
        if options.temp_dir is not None:
            options.temp_dir.mkdir(parents=True, exist_ok=True)
        total = None if from_pipe else os.fstat(file.fileno()).st_size
        bar = _Bar(sys.stderr, total or None, file.tell) if on_terminal else None
        try:
            stage_into_folder(
                dump,
                storage,
                staging,
                Source(filename=None if from_pipe else _file_name(options.dump)),
                temp_dir=options.temp_dir,
                parse_threads=options.threads,
                on_progress=bar,
            )
        finally:
            if bar is not None:
                bar.clear()
        return storage.path / MANIFEST_KEY


@contextlib.contextmanager
def _output_folder(path: Path) -> Iterator[FolderStorage]:
    """A storage for the output; if a failed run has created its folder, it is removed."""
    storage = FolderStorage(path)
    existed = storage.path.exists()
    try:
        yield storage
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                storage.path.rmdir()
        raise


def _opened(dump: str) -> io.BufferedReader:
    return os.fdopen(0, "rb", closefd=False) if dump == "-" else Path(dump).open("rb")


def _file_name(dump: str) -> str:
    """Last part of a path as valid UTF-8; a path may have other bytes."""
    return os.fsencode(Path(dump).name).decode("utf-8", "replace")


class _Bar:
    """A progress bar on a terminal, redrawn a few times a second.

    :param total: size of the file on disk, None when unknown.
    :param position: how much of that was read.
    """

    def __init__(self, terminal: TextIO, total: int | None, position: Callable[[], int]) -> None:
        self._terminal = terminal
        self._total = total
        self._position = position
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        """Redraw the bar, at most a few times a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _BAR_EVERY_SECONDS
        bar = ""
        if self._total is not None:
            share = min(1.0, self._position() / self._total)
            filled = round(share * _BAR_WIDTH)
            bar = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {share:4.0%} "
        self._terminal.write(f"\r\x1b[K{bar}{progress}")
        self._terminal.flush()

    def clear(self) -> None:
        """Remove the line."""
        self._terminal.write("\r\x1b[K")
        self._terminal.flush()


def argument_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_d1.staging",
        description="Turn a D1 (or any SQLite) dump into typed files, one folder for each table, and a manifest.",
    )
    parser.add_argument("dump", metavar="DUMP", help="SQL file, also compressed with gzip or zstd; - reads stdin")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="folder for the files; created if it is missing")
    for name, default in _DEFAULTS.items():
        if name == "replace":
            text = "fail if OUT_DIR has a manifest already"
            parser.add_argument("--no-replace", dest=name, action="store_false", help=text)
        else:
            parser.add_argument(f"--{_FLAGS.get(name, name).replace('_', '-')}", dest=name, **_argument(name, default))
    parser.add_argument(
        "--temp-dir", type=Path, metavar="DIR", help="folder for unfinished parts; a folder in OUT_DIR by default"
    )
    parser.add_argument(
        "--threads",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="threads that parse, 0 for the main thread only; fewer use less memory (default: 2)",
    )
    return parser


def _argument(name: str, default: object) -> dict[str, Any]:
    """The arguments of ``add_argument`` for a staging option."""
    text = STAGING_HELP[name].replace("``", "").replace('"', "")
    if name in _REPEATED:
        metavar, text = _REPEATED[name]
        return {"action": "append", "metavar": metavar, "help": f"{text}; can be given more than once"}
    if isinstance(default, bool):
        return {"action": "store_true", "help": text}
    if default is not None:
        text = f"{text} (default: {default})"
    kind = get_type_hints(StagingOptions)[name]
    choices = CODECS if name == "compression" else get_args(kind) or None
    return {"default": default, "type": kind if kind is int else str, "choices": choices, "help": text}


if __name__ == "__main__":
    sys.exit(main())
