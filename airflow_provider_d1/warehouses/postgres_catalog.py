"""What Postgres's catalog says about a table: its columns, and everything that is attached to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: runs a query and returns its rows
Rows = Callable[[str], list[tuple[Any, ...]]]

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a type",
    "i": "an index",
}


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation that has the name of a staged table.

    :param kind: ``pg_class.relkind``.
    :param columns: name → type as ``format_type`` writes it, in order.
    """

    oid: int
    kind: str
    columns: Mapping[str, str]

    @property
    def partitioned(self) -> bool:
        """Declared with ``PARTITION BY``."""
        return self.kind == "p"

    @property
    def other_than_table(self) -> str | None:
        """What it is, when it is no table."""
        return None if self.kind in ("r", "p") else _KINDS.get(self.kind, f"a relation of kind {self.kind!r}")


def relation(rows: Rows, path: str) -> Relation | None:
    """The relation of a name.

    :param path: the qualified, quoted name as a string literal.
    """
    found = rows(f"SELECT oid::bigint, relkind::text FROM pg_catalog.pg_class WHERE oid = to_regclass({path})")
    if not found:
        return None
    ((oid, kind),) = found
    columns = rows(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute "
        f"WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return Relation(oid, kind, dict(columns))


#: every way in which a table differs from one that CREATE TABLE has just made, each in words. What depends on a table
#: (indexes, constraints, triggers, policies, views, defaults, statistics, publications, partitions, foreign keys,
#: functions, other tables' columns) is one list in Postgres, pg_depend: nothing has to be named here to be found.
_ATTACHED = """
WITH kept AS (SELECT * FROM pg_catalog.pg_class WHERE oid = {kept}),
  fresh AS (SELECT * FROM pg_catalog.pg_class WHERE oid = {fresh}),
  row_type AS (SELECT oid, typarray FROM pg_catalog.pg_type WHERE oid = (SELECT reltype FROM kept))
SELECT 'owner ' || pg_get_userbyid(kept.relowner) FROM kept, fresh WHERE kept.relowner <> fresh.relowner
UNION ALL
SELECT 'grants or revokes' FROM kept, fresh,
  LATERAL (SELECT coalesce(kept.relacl, acldefault('r', kept.relowner)) AS old,
    coalesce(fresh.relacl, acldefault('r', fresh.relowner)) AS new) acl
  WHERE NOT (acl.old @> acl.new AND acl.new @> acl.old)
UNION ALL
SELECT 'row-level security' FROM kept WHERE relrowsecurity OR relforcerowsecurity
UNION ALL
SELECT 'table options' FROM kept, fresh WHERE kept.relkind <> fresh.relkind OR kept.reloftype <> fresh.reloftype
  OR kept.relpersistence <> fresh.relpersistence OR kept.relam <> fresh.relam
  OR kept.reltablespace <> fresh.reltablespace OR kept.relreplident <> fresh.relreplident
  OR kept.reloptions IS DISTINCT FROM fresh.reloptions
  OR (SELECT reloptions FROM pg_catalog.pg_class WHERE oid = kept.reltoastrelid)
    IS DISTINCT FROM (SELECT reloptions FROM pg_catalog.pg_class WHERE oid = fresh.reltoastrelid)
UNION ALL
SELECT 'inheritance' FROM kept WHERE relispartition
  OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE kept.oid IN (i.inhrelid, i.inhparent))
UNION ALL
SELECT 'settings of column ' || quote_ident(attname) FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = {kept} AND a.attnum > 0 AND NOT a.attisdropped
  AND (a.attacl IS NOT NULL OR a.attoptions IS NOT NULL OR a.attnotnull OR a.atthasdef OR a.attidentity <> ''
    OR a.attgenerated <> '' OR a.attcollation <> t.typcollation OR a.attstorage <> t.typstorage
    OR a.attcompression <> '' OR coalesce(a.attstattarget, -1) <> -1)
UNION ALL
SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend d, kept, row_type
  WHERE (d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = kept.oid
    OR d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (row_type.oid, row_type.typarray))
  AND NOT (d.classid = 'pg_catalog.pg_type'::regclass AND d.objid IN (row_type.oid, row_type.typarray))
  AND NOT (d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = kept.reltoastrelid)
UNION ALL
SELECT 'its ' || pg_describe_object(refclassid, refobjid, refobjsubid) FROM pg_catalog.pg_depend
  WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = {kept} AND deptype IN ('e', 'x')
UNION ALL
SELECT 'a comment' WHERE EXISTS (SELECT FROM pg_catalog.pg_description
  WHERE classoid = 'pg_catalog.pg_class'::regclass AND objoid = {kept})
UNION ALL
SELECT 'a security label' WHERE EXISTS (SELECT FROM pg_catalog.pg_seclabel
  WHERE classoid = 'pg_catalog.pg_class'::regclass AND objoid = {kept})
UNION ALL
SELECT 'a subscription' WHERE EXISTS (SELECT FROM pg_catalog.pg_subscription_rel WHERE srrelid = {kept})
"""


def attached(rows: Rows, kept: Relation, fresh: str, known_types: Mapping[str, str]) -> list[str]:
    """What would be lost if the table were dropped and another one took its name, in words; empty for nothing.

    :param fresh: SQL for the oid of a table that this role has just created in the same schema: what it has is no loss.
    :param known_types: the types that a load gives to columns; a column of another type was changed by a user.
    """
    found = [str(what) for (what,) in rows(_ATTACHED.format(kept=kept.oid, fresh=fresh))]
    return found + [f"column {name} {kind}" for name, kind in kept.columns.items() if kind not in known_types]


def dependents_of_column(rows: Rows, table: Relation, column: str, literal: Callable[[str], str]) -> list[str]:
    """What keeps Postgres from changing a column's type: views and rules, policies, triggers, filters."""
    classes = "'pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_publication_rel'::regclass"
    found = rows(
        "SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_depend d "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
        f"WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = {table.oid} AND a.attname = {literal(column)} "
        f"AND d.classid IN ({classes}) ORDER BY 1"
    )
    return [str(what) for (what,) in found]


def key_with_actions(rows: Rows, table: Relation) -> Sequence[str]:
    """The columns by which to match rows, when a foreign key that would act on a DELETE points at the table.

    The primary key if there is one, else the columns that such a foreign key refers to; empty when there is no such
    foreign key. ``NO ACTION`` is none: it looks at the end of the statement, when the row may be there again.
    """
    found = rows(
        "SELECT (SELECT array_agg(a.attname::text ORDER BY k.number) "
        "FROM unnest(coalesce(p.conkey, f.confkey)) WITH ORDINALITY k(attnum, number) "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum) "
        "FROM pg_catalog.pg_constraint f "
        "LEFT JOIN pg_catalog.pg_constraint p ON p.conrelid = f.confrelid AND p.contype = 'p' "
        f"WHERE f.contype = 'f' AND f.confrelid = {table.oid} AND f.confdeltype <> 'a' ORDER BY f.oid LIMIT 1"
    )
    return list(found[0][0]) if found else []


def refuses_deletes(rows: Rows, table: Relation) -> bool:
    """Whether the table is in a publication that sends deletes and has no replica identity.

    Postgres then refuses every DELETE, but not TRUNCATE.
    """
    return bool(
        rows(
            "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_catalog.pg_publication_tables t ON (t.schemaname, t.tablename) = (n.nspname, c.relname) "
            f"JOIN pg_catalog.pg_publication p USING (pubname) WHERE c.oid = {table.oid} AND p.pubdelete "
            "AND c.relreplident <> 'f' AND pg_get_replica_identity_index(c.oid) IS NULL LIMIT 1"
        )
    )
