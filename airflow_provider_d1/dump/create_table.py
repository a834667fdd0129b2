"""Parse CREATE TABLE into columns as SQLite reports them, without executing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from airflow_provider_d1.dump.affinity import affinity_of
from airflow_provider_d1.dump.schema import DeclaredColumn, TableSchema, unquote
from airflow_provider_d1.dump.statements import SqlToken, tokens
from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.validation import fold_case

_RESERVED = """
    ADD ALL ALTER AND AS AUTOINCREMENT BETWEEN CASE CHECK COLLATE COMMIT CONSTRAINT CREATE CROSS DEFAULT
    DEFERRABLE DELETE DISTINCT DROP ELSE ESCAPE EXCEPT EXISTS FOREIGN FROM FULL GROUP HAVING IN INDEX INDEXED
    INNER INSERT INTERSECT INTO IS ISNULL JOIN LEFT LIMIT NATURAL NOT NOTHING NOTNULL NULL ON OR ORDER OUTER
    PRIMARY REFERENCES RETURNING RIGHT SELECT SET TABLE THEN TO TRANSACTION UNION UNIQUE UPDATE USING VALUES
    WHEN WHERE
"""
#: words that SQLite does not accept as a type's name
_NOT_A_TYPE = frozenset(_RESERVED.split())
#: a bare name may be a join keyword or INDEXED, a type may not
_NOT_A_NAME = _NOT_A_TYPE - {"CROSS", "FULL", "INNER", "LEFT", "NATURAL", "OUTER", "RIGHT", "INDEXED"}
#: spellings that SQLite reports in upper case
_STANDARD_TYPES = frozenset({"ANY", "BLOB", "INT", "INTEGER", "REAL", "TEXT"})


@dataclass
class _Draft:
    """A column whose definition is being read."""

    name: str
    declared_type: str
    not_null: bool = False
    primary_key: int = 0
    descending: bool = False
    generated: bool = False
    default: str | None = None


def parse_create_table(sql: bytes, offset: int = 0) -> TableSchema:
    """Read one CREATE TABLE statement.

    :param sql: the statement, without its semicolon.
    :param offset: where it starts in the dump, for errors.
    :raises D1DumpError: for a statement that is not a plain CREATE TABLE (TEMP, VIRTUAL, ``AS SELECT``) or not SQL.
    """
    return _Parser(sql, offset).table()


class _Parser:
    """A recursive-descent reader of one CREATE TABLE statement."""

    def __init__(self, sql: bytes, offset: int) -> None:
        self._sql = sql
        self._offset = offset
        self._tokens = [token for token in tokens(sql) if token.kind != "comment"]
        self._at = 0
        self._table: str | None = None

    def fail(self, what: str) -> NoReturn:
        """Raise with the offset of the current token."""
        start = self._tokens[self._at].start if self._at < len(self._tokens) else len(self._sql)
        raise D1DumpError(f"CREATE TABLE: {what}", offset=self._offset + start, table=self._table)

    def peek(self) -> SqlToken:
        return self._tokens[self._at] if self._at < len(self._tokens) else SqlToken("end", b"", len(self._sql))

    def take(self) -> SqlToken:
        token = self.peek()
        if token.kind == "end":
            self.fail("statement ends too early")
        self._at += 1
        return token

    def take_words(self, *words: str) -> bool:
        following = self._tokens[self._at : self._at + len(words)]
        if len(following) == len(words) and all(t.is_word(w) for t, w in zip(following, words, strict=True)):
            self._at += len(words)
            return True
        return False

    def take_symbol(self, symbol: bytes) -> bool:
        if self.peek().kind == "symbol" and self.peek().text == symbol:
            self._at += 1
            return True
        return False

    def expect_symbol(self, symbol: bytes) -> None:
        if not self.take_symbol(symbol):
            self.fail(f"expected {symbol.decode()!r}")

    def name(self) -> str:
        token = self.peek()
        if token.kind not in ("word", "quoted", "string") or token.is_word(*_NOT_A_NAME):
            self.fail("expected a name")
        self._at += 1
        return self.decode(unquote(token.text))

    def decode(self, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.fail("invalid UTF-8")

    def skip_parentheses(self) -> None:
        self.expect_symbol(b"(")
        depth = 1
        while depth:
            token = self.take()
            if token.kind == "symbol":
                depth += {b"(": 1, b")": -1}.get(token.text, 0)

    def table(self) -> TableSchema:
        ddl = self.decode(self._sql)
        if not self.take_words("CREATE", "TABLE"):
            self.fail("only a plain CREATE TABLE can be read, not TEMP or VIRTUAL")
        self.take_words("IF", "NOT", "EXISTS")
        self._table = name = self.name()
        if self.peek().is_word("AS"):
            self.fail("AS SELECT cannot be read without executing it")
        self.expect_symbol(b"(")
        columns = self.columns()
        key = self.table_constraints(columns)
        self.expect_symbol(b")")
        strict, without_rowid = self.options()
        return _finish(name, ddl, columns, key, strict=strict, without_rowid=without_rowid, fail=self.fail)

    def columns(self) -> list[_Draft]:
        drafts: list[_Draft] = []
        names: set[str] = set()
        while True:
            draft = _Draft(self.name(), self.declared_type())
            self.column_constraints(draft)
            if fold_case(draft.name) in names:
                self.fail(f"column {draft.name!r} is defined twice")
            names.add(fold_case(draft.name))
            drafts.append(draft)
            if not self.take_symbol(b","):
                return drafts
            if self.peek().is_word("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"):
                return drafts

    def declared_type(self) -> str:
        """Read a column's type as SQLite records it: the text as written, standard names in upper case."""
        first = last = None
        while (token := self.peek()).kind in ("word", "string", "quoted") and not token.is_word(*_NOT_A_TYPE):
            first = first or token
            last = self.take()
        if first is None or last is None:
            return ""
        if self.peek().text == b"(":
            self.skip_parentheses()
            last = self._tokens[self._at - 1]
        return _recorded_type(self.decode(self._sql[first.start : last.end]))

    def column_constraints(self, draft: _Draft) -> None:
        while not (self.peek().kind == "symbol" and self.peek().text in (b",", b")")):
            if not self.column_constraint(draft):
                self.fail(f"unexpected {self.peek().text[:40].decode('utf-8', 'replace')!r}")

    def column_constraint(self, draft: _Draft) -> bool:
        """Read one column constraint; False when there is none."""
        if self.take_words("PRIMARY", "KEY"):
            draft.primary_key = 1
            self.take_words("ASC")
            draft.descending = self.take_words("DESC")
            self.conflict_clause()
            self.take_words("AUTOINCREMENT")
        elif self.take_words("NOT", "NULL"):
            draft.not_null = True
            self.conflict_clause()
        elif self.take_words("GENERATED", "ALWAYS", "AS") or self.take_words("AS"):
            draft.generated = True
            self.skip_parentheses()
            _ = self.take_words("STORED") or self.take_words("VIRTUAL")
        elif self.take_words("DEFAULT"):
            draft.default = self.default()
        elif self.take_words("UNIQUE") or self.take_words("NULL"):
            self.conflict_clause()
        elif self.take_words("COLLATE") or self.take_words("CONSTRAINT"):
            self.name()
        elif self.take_words("CHECK"):
            self.skip_parentheses()
            self.conflict_clause()
        else:
            return self.references()
        return True

    def conflict_clause(self) -> None:
        if self.take_words("ON", "CONFLICT"):
            self.take()

    def default(self) -> str:
        """Read the value of a DEFAULT clause as SQL."""
        start = self.peek().start
        if self.peek().text == b"(":
            self.skip_parentheses()
        else:
            while self.peek().text in (b"+", b"-"):
                self.take()
            literal = self.take()
            if literal.text in (b"x", b"X") and self.peek().kind == "string":
                self.take()
        return self.decode(self._sql[start : self._tokens[self._at - 1].end])

    def references(self) -> bool:
        """Skip REFERENCES … and DEFERRABLE …; False when there is neither."""
        if self.take_words("REFERENCES"):
            self.name()
            if self.peek().text == b"(":
                self.skip_parentheses()
            while self.take_words("MATCH") or self.take_words("ON"):
                self.take()
                if self._tokens[self._at - 2].is_word("ON") and not (
                    self.take_words("SET", "NULL")
                    or self.take_words("SET", "DEFAULT")
                    or self.take_words("NO", "ACTION")
                ):
                    self.take()
            return True
        if self.take_words("DEFERRABLE") or self.take_words("NOT", "DEFERRABLE"):
            if self.take_words("INITIALLY"):
                self.take()
            return True
        return False

    def table_constraints(self, columns: list[_Draft]) -> list[str]:
        """Read the table constraints; return the columns of a PRIMARY KEY among them, in its order."""
        key: list[str] = []
        while self.peek().text != b")":
            if self.take_words("PRIMARY", "KEY"):
                key = self.key_columns(columns)
                self.conflict_clause()
            elif self.take_words("UNIQUE") or self.take_words("CHECK"):
                self.skip_parentheses()
                self.conflict_clause()
            elif self.take_words("FOREIGN", "KEY"):
                self.skip_parentheses()
                while self.references():
                    pass
            elif self.take_words("CONSTRAINT"):
                self.name()
            elif not self.take_symbol(b","):
                self.fail(f"unexpected {self.peek().text[:40].decode('utf-8', 'replace')!r}")
        return key

    def key_columns(self, columns: list[_Draft]) -> list[str]:
        self.expect_symbol(b"(")
        known = {fold_case(column.name) for column in columns}
        key: list[str] = []
        while True:
            name = fold_case(self.name())
            if name not in known:
                self.fail("PRIMARY KEY names an unknown column")
            key.append(name)
            if self.take_words("COLLATE"):
                self.name()
            _ = self.take_words("ASC") or self.take_words("DESC") or self.take_words("AUTOINCREMENT")
            if not self.take_symbol(b","):
                self.expect_symbol(b")")
                return key

    def options(self) -> tuple[bool, bool]:
        """Read what follows the closing parenthesis: STRICT, WITHOUT ROWID."""
        strict = without_rowid = False
        while self.peek().kind != "end":
            if self.take_words("STRICT"):
                strict = True
            elif self.take_words("WITHOUT", "ROWID"):
                without_rowid = True
            elif not self.take_symbol(b","):
                self.fail(f"unexpected {self.peek().text[:40].decode('utf-8', 'replace')!r}")
        return strict, without_rowid


def _recorded_type(written: str) -> str:
    """Return the type that SQLite records for a type as written.

    SQLite reads GENERATED ALWAYS as part of the type and removes it, as it removes quotes around the type.
    """
    if len(written) >= 16 and fold_case(written[-6:]) == "always":
        shorter = written[:-6].rstrip(" \t\n\v\f\r")
        if fold_case(shorter[-9:]) == "generated":
            shorter = shorter[:-9].rstrip(" \t\n\v\f\r")
        written = shorter
    closing = {'"': '"', "'": "'", "`": "`", "[": "]"}.get(written[:1])
    if closing is not None and len(written) >= 3 and not any(c in "\"'`[" for c in written[1:-1]):
        written = written[1:-1]
        closing = {'"': '"', "'": "'", "`": "`", "[": "]"}.get(written[:1])
    if written.upper() in _STANDARD_TYPES:
        return written.upper()
    if closing is None:
        return written
    kept, at = [], 1
    while at < len(written):
        if written[at] == closing:
            if written[at + 1 : at + 2] != closing:
                break
            at += 1
        kept.append(written[at])
        at += 1
    return "".join(kept)


def _finish(
    name: str,
    ddl: str,
    drafts: list[_Draft],
    key: list[str],
    *,
    strict: bool,
    without_rowid: bool,
    fail: Callable[[str], NoReturn],
) -> TableSchema:
    """Make columns of the drafts; this needs the whole statement, as keys and STRICT are at its end."""
    inline = [fold_case(draft.name) for draft in drafts if draft.primary_key]
    if len(inline) + bool(key) > 1:
        fail("more than one PRIMARY KEY")
    key = key or inline
    single = next((draft for draft in drafts if [fold_case(draft.name)] == key), None)
    alias = (
        single is not None
        and not without_rowid
        and single.declared_type == "INTEGER"
        and not (
            single.primary_key and single.descending
        )  # SQLite's exception: with DESC the column is not a rowid alias
    )
    stored = []
    for draft in drafts:
        position = key.index(fold_case(draft.name)) + 1 if fold_case(draft.name) in key else 0
        column = DeclaredColumn(
            name=draft.name,
            declared_type=draft.declared_type,
            affinity=affinity_of(draft.declared_type, strict=strict),
            primary_key=position,
            nullable=not (draft.not_null or (position and (without_rowid or strict or alias))),
            rowid_alias=bool(alias and position),
            default=draft.default,
        )
        if not draft.generated:
            stored.append(column)
    if not stored:
        fail("the table has no stored column")
    return TableSchema(
        name=name,
        ddl=ddl,
        columns=tuple(stored),
        generated=tuple(draft.name for draft in drafts if draft.generated),
        strict=strict,
        without_rowid=without_rowid,
    )
