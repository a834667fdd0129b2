"""Convert an SQL script or dump to a form that D1 imports: check each statement, and rewrite what D1 cannot read.

Two things are rewritten, both in INSERTs and without changing the inserted rows: a NUL inside a text, which is a raw
byte in dumps and ends SQLite's parsing, and statements that are too long. In a dump of D1, the tables are moved before
all rows and the triggers behind the views. Comments between statements are removed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.statements import SPACE, find_insert_end, find_statement_end, tokens
from airflow_provider_d1.exceptions import D1ImportFileError
from airflow_provider_d1.staging.streams import CHUNK

if TYPE_CHECKING:
    from airflow_provider_d1.into_d1.import_file import ImportFile
    from airflow_provider_d1.staging.streams import Readable

#: a row of 2 MB is at most twice as long as a literal
_LONGEST_STATEMENT = 16 << 20
_SPACE = re.compile(SPACE)
_WORD = re.compile(rb"[A-Za-z]+")
_INSERTS = (b"INSERT", b"REPLACE")
_TRANSACTIONS = (b"BEGIN", b"COMMIT", b"END", b"ROLLBACK", b"SAVEPOINT", b"RELEASE")
_REFUSED = (b"ATTACH", b"DETACH", b"VACUUM")
#: byte order mark of UTF-8
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
#: a dump of D1 begins so. It has each table's rows behind its CREATE, but a row cannot be inserted while the table that
#: a foreign key of its own table names does not exist: the tables come first then. Triggers may be on views, which it
#: has at its end: they come last.
_DUMP_OF_D1 = re.compile(rb"PRAGMA\s+defer_foreign_keys\s*=\s*TRUE\s*;\Z", re.IGNORECASE)
_CREATE_TABLE = re.compile(rb"CREATE\s+TABLE\b", re.IGNORECASE)
_CREATE_TRIGGER = re.compile(rb"CREATE\s+TRIGGER\b", re.IGNORECASE)
_OPENING = (b"'", b'"', b"`", b"[")


@dataclass(frozen=True, slots=True)
class ScriptSummary:
    """The script's length and SHA-256, uncompressed."""

    bytes: int
    sha256: str


def copy_script(script: Readable, target: ImportFile) -> ScriptSummary:
    """Copy a script, statement by statement, in bounded memory.

    :param script: SQL text in UTF-8.
    :param target: receives the statements.
    :raises D1ImportFileError: for a statement that D1 would not run; it names the statement's offset.
    """
    reader = _Hashed(script)
    of_d1 = False
    triggers: list[bytes] = []
    for offset, statement in _statements(reader):
        of_d1 = of_d1 or (target.statements == 0 and _DUMP_OF_D1.match(statement) is not None)
        try:
            if _check(statement) in _INSERTS:
                target.add_insert(statement)
            elif of_d1 and (target.statements == 0 or _CREATE_TABLE.match(statement)):
                target.add_first(statement)
            elif of_d1 and _CREATE_TRIGGER.match(statement):
                triggers.append(statement)
            else:
                target.add(statement)
        except D1ImportFileError as error:
            raise D1ImportFileError(f"{error}. The statement begins {_begin(statement)}", offset=offset) from None
    for statement in triggers:
        target.add(statement)
    return ScriptSummary(reader.bytes, reader.sha256)


def _check(statement: bytes) -> bytes:
    """The statement's first word; raises for a statement that D1 refuses."""
    found = _WORD.match(statement)
    word = found.group().upper() if found else b""
    if word in _TRANSACTIONS:
        raise D1ImportFileError(
            "D1 runs an import in one transaction and refuses BEGIN, COMMIT and SAVEPOINT: remove these statements from"
            " the file"
        )
    if word in _REFUSED:
        raise D1ImportFileError(f"D1 does not run {word.decode()}: remove the statement from the file")
    if word not in _INSERTS and b"\0" in statement:
        raise D1ImportFileError("NUL byte outside of the values of an INSERT: the file is damaged, or not SQL text")
    return word


class _Hashed:
    """Counts and hashes the bytes that are read."""

    def __init__(self, script: Readable) -> None:
        self._script = script
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int) -> bytes:
        data = self._script.read(size)
        self._digest.update(data)
        self.bytes += len(data)
        return data


def _statements(reader: _Hashed) -> Iterator[tuple[int, bytes]]:
    """Each statement with its offset, without comments around it; the last one may lack its semicolon."""
    buffer = bytearray()
    while len(buffer) < len(_BOM) and (data := reader.read(CHUNK)):
        buffer += data
    if buffer.startswith(_UTF_16):
        raise D1ImportFileError("the file is UTF-16, as PowerShell's > writes it; D1 imports UTF-8", offset=0)
    at = len(_BOM) if buffer.startswith(_BOM) else 0
    base = 0  # offset of the buffer in the script
    final = False
    while True:
        begin = _after_space(buffer, at)
        end = _end(buffer, begin, final=final) if begin < len(buffer) else -1
        if end >= 0:
            if buffer[begin:end] != b";":
                yield base + begin, _with_semicolon(bytes(buffer[begin:end]))
            at = end
            continue
        if final:
            break
        # a comment may continue in the next chunk, so it is read again then
        del buffer[:at]
        base, at = base + at, 0
        if len(buffer) > _LONGEST_STATEMENT:
            raise D1ImportFileError(
                f"a statement of more than {_LONGEST_STATEMENT:,} bytes, or an unclosed quote",
                offset=base + _after_space(buffer, 0),
            )
        data = reader.read(
            max(CHUNK, len(buffer))
        )  # twice as much, so that searching a long statement takes linear time
        final = not data
        buffer += data
    if begin < len(buffer):
        rest = bytes(buffer[begin:])
        if any(token.kind == "symbol" and token.text in _OPENING for token in tokens(rest)):
            raise D1ImportFileError("the file ends inside a quoted text: it is truncated", offset=base + begin)
        yield base + begin, rest.rstrip() + b"\n;"  # on a new line, as the last line may be a comment


def _with_semicolon(statement: bytes) -> bytes:
    """D1 writes ``CREATE VIEW … -- comment;``, whose semicolon belongs to the comment."""
    if statement[:6].upper() == b"CREATE" and b"--" in statement.rpartition(b"\n")[2]:
        *_, last = tokens(statement)
        if last.kind == "comment":
            return statement + b"\n;"
    return statement


def _after_space(buffer: bytearray, at: int) -> int:
    found = _SPACE.match(buffer, at)
    return at if found is None else found.end()


def _end(buffer: bytearray, at: int, *, final: bool) -> int:
    """The end of the statement that begins here, -1 when it is not in the buffer yet."""
    word = _WORD.match(buffer, at, at + 10)
    if word is not None and word.group().upper() in _INSERTS:
        return find_insert_end(buffer, at)
    return find_statement_end(buffer, at, final=final)


def _begin(statement: bytes) -> str:
    words = " ".join(statement[:200].decode("utf-8", "replace").split())
    return repr(words[:60] + ("…" if len(words) > 60 else ""))
