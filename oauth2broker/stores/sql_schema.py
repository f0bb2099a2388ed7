"""The table of :class:`SQLAlchemyStore`, and all that it asks of it. No I/O. Needs the extra ``sql``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Executable,
    Index,
    Insert,
    MetaData,
    Select,
    String,
    Table,
    Text,
    TypeDecorator,
    Update,
    and_,
    bindparam,
    delete,
    false,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from oauth2broker.secret import TokenSecret

PAGE: Final = 1000
"""How many rows one statement of a listing gives."""

START: Final = -(2**63)
"""Before any time in milliseconds that the table can hold."""

_DAY: Final = 86_400_000

_CLOCKS: Final = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
    "mariadb": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
"""Milliseconds since 1970, UTC, by the database's clock, whatever the session's time zone is."""

DIALECTS: Final = frozenset(_CLOCKS)


class SecretText(TypeDecorator[TokenSecret]):
    """Text that is a :class:`TokenSecret` on our side, so that SQLAlchemy's own logging shows none of it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: TokenSecret | None, dialect: Dialect) -> str | None:
        return None if value is None else value.expose()

    def process_result_value(self, value: str | None, dialect: Dialect) -> TokenSecret | None:
        return None if value is None else TokenSecret(value)


def build_table(metadata: MetaData, name: str) -> Table:
    """Give the table, in ``metadata``."""
    for_mysql: dict[str, Any] = {
        f"{kind}_{option}": value
        for kind in ("mysql", "mariadb")
        for option, value in (("engine", "InnoDB"), ("charset", "ascii"), ("collate", "ascii_bin"))
    }
    return Table(
        name,
        metadata,
        Column("key_digest", String(64), primary_key=True),
        Column("record", Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=True),
        Column("stamp", String(32), nullable=False),
        Column("refresh_digest", String(64), nullable=False),
        Column("revoked", Boolean(), nullable=False),
        Column("client_digest", String(64), nullable=False),
        Column("due_at", BigInteger(), nullable=True),
        Column("dead_at", BigInteger(), nullable=True),
        Column("lease_owner", String(32), nullable=True),
        Column("lease_until", BigInteger(), nullable=True),
        Index(f"ix_{name}_due", "client_digest", "due_at"),
        Index(f"ix_{name}_dead", "client_digest", "dead_at"),
        **for_mysql,
    )


@dataclass(frozen=True, slots=True)
class Statements:
    """What the store asks of the table, each by primary key or by an index; ``b_...`` are its parameters."""

    read: Executable
    fill: Executable
    make_room: Executable
    swap: Executable
    replace: Executable
    look: Executable
    remove: Executable
    drop_if_empty: Executable
    scan: Executable
    scan_due: Executable
    scan_dead: Executable
    take_free: Executable
    look_at_lease: Executable
    take_new: Executable
    prolong: Executable
    release: Executable
    list_abandoned: Executable
    drop_if_abandoned: Executable


def build_statements(table: Table, dialect: str) -> Statements:
    """Give the statements in what is common to all dialects, and where they differ in ``dialect``'s words."""
    columns, now = table.c, literal_column(_CLOCKS[dialect], BigInteger())
    this, is_record = columns.key_digest == bindparam("b_digest"), columns.record.is_not(None)
    is_empty = and_(columns.record.is_(None), columns.lease_owner.is_(None))
    is_ours = columns.lease_owner == bindparam("b_owner")
    is_abandoned_by = columns.lease_owner == bindparam("b_abandoned")
    milliseconds = bindparam("b_milliseconds", type_=BigInteger())
    record, until = _record_values(), {"lease_until": now + milliseconds}
    lease = {"lease_owner": bindparam("b_owner"), **until}
    has_lapsed = or_(columns.lease_until <= now, columns.lease_until > now + 2 * milliseconds)  # set back
    key: dict[str, Any] = {"key_digest": bindparam("b_digest")}
    is_abandoned = and_(
        columns.client_digest == "",
        columns.record.is_(None),
        or_(columns.lease_owner.is_(None), columns.lease_until < now - _DAY),
    )
    return Statements(
        read=_select(table).where(this, is_record),
        fill=_update(table, record).where(this, columns.record.is_(None)),
        make_room=_insert_if_missing(table, dialect, {**key, **_NO_RECORD}),
        swap=_update(table, record).where(
            this,
            is_record,
            columns.revoked == false(),
            columns.refresh_digest == bindparam("b_expected"),
        ),
        replace=_update(table, record).where(this, is_record, columns.stamp == bindparam("b_expected")),
        look=select(columns.stamp, columns.revoked, columns.refresh_digest).where(this, is_record),
        remove=_update(table, _NO_RECORD).where(this, is_record),
        drop_if_empty=delete(table).where(this, is_empty),
        scan=_select(table)
        .where(is_record, columns.key_digest > bindparam("b_after"))
        .order_by(columns.key_digest)
        .limit(PAGE),
        scan_due=_page(table, columns.due_at),
        scan_dead=_page(table, columns.dead_at),
        take_free=_update(table, lease).where(
            this, or_(columns.lease_owner.is_(None), is_ours, and_(is_abandoned_by, has_lapsed))
        ),
        look_at_lease=select(columns.lease_owner, has_lapsed.label("has_lapsed")).where(
            this, columns.lease_owner.is_not(None)
        ),
        take_new=_insert_if_missing(table, dialect, {**key, **_NO_RECORD, **lease}),
        prolong=_update(table, until).where(
            columns.key_digest.in_(bindparam("b_digests", expanding=True)),
            columns.lease_owner.in_(bindparam("b_owners", expanding=True)),
        ),
        release=_update(table, {"lease_owner": None, "lease_until": None}).where(this, is_ours),
        list_abandoned=select(columns.key_digest).where(is_abandoned).limit(PAGE),
        drop_if_abandoned=delete(table).where(this, is_abandoned),
    )


_NO_RECORD: Final[Mapping[str, Any]] = {
    "record": None,
    "stamp": "",
    "refresh_digest": "",
    "revoked": False,
    "client_digest": "",
    "due_at": None,
    "dead_at": None,
}


def _record_values() -> dict[str, Any]:
    values: dict[str, Any] = {name: bindparam(f"b_{name}") for name in _NO_RECORD}
    return {**values, "record": bindparam("b_record", type_=SecretText())}


def _select(table: Table) -> Select[Any]:
    columns = table.c
    return select(columns.key_digest, type_coerce(columns.record, SecretText()).label("text"), columns.stamp)


def _update(table: Table, values: Mapping[str, Any]) -> Update:
    return update(table).values(dict(values))


def _page(table: Table, when: Column[Any]) -> Select[Any]:
    """Give what comes after a place in the order of ``when``, up to a time."""
    after, key = bindparam("b_since", type_=BigInteger()), table.c.key_digest
    return (
        _select(table)
        .add_columns(when.label("at"))
        .where(
            table.c.client_digest == bindparam("b_client"),
            when <= bindparam("b_before", type_=BigInteger()),
            when >= after,
            or_(when > after, key > bindparam("b_after")),
        )
        .order_by(when, key)
        .limit(PAGE)
    )


def _insert_if_missing(table: Table, dialect: str, values: Mapping[str, Any]) -> Insert:
    """Give one that does nothing when there is a row, and is no error, which servers would log."""
    if dialect in ("mysql", "mariadb"):
        return mysql.insert(table).values(dict(values)).prefix_with("IGNORE")
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).values(dict(values)).on_conflict_do_nothing(index_elements=["key_digest"])
