"""The page about SQLAlchemyStore runs as it stands; its migration makes the table that the store makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, MetaData, create_engine, inspect

from oauth2broker import SQLAlchemyStore
from oauth2broker.stores.sqlalchemy import build_table
from oauth2broker.testing.store_contract import make_record
from tests.test_docs_pages import DOCS, blocks, run

TABLE = "oauth2broker_tokens"
PAGE = DOCS / "sql_store.rst"
USING, POOLED, MIGRATION, MODEL = blocks(PAGE.read_text(encoding="utf-8"), "python")


def test_the_first_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that works, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    run(USING, PAGE, namespace)
    record = make_record()
    namespace["store"].save(record)
    assert SQLAlchemyStore("sqlite:///tokens.db").fetch(record.key) == record


def test_the_engine_for_poolers_is_one_that_the_store_takes() -> None:
    """Its options are known to driver and SQLAlchemy; it connects to nothing."""
    namespace: dict[str, Any] = {"SQLAlchemyStore": SQLAlchemyStore}
    run(POOLED, PAGE, namespace)
    assert isinstance(namespace["store"], SQLAlchemyStore)


def test_the_migration_of_the_page_makes_the_table(sql_url: str) -> None:
    """The same columns, key, indexes and options that create_table() makes; Alembic sees no difference."""
    namespace: dict[str, Any] = {}
    run(MIGRATION, PAGE, namespace)
    run(MODEL, PAGE, namespace)
    engine = create_engine(sql_url)
    ours = SQLAlchemyStore(engine)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        with Operations.context(context):
            namespace["upgrade"]()
            assert compare_metadata(context, namespace["metadata"]) == []
            by_alembic = described(connection)
            namespace["downgrade"]()
    ours.create_table()
    with engine.connect() as connection:
        assert described(connection) == by_alembic
        assert len(by_alembic["columns"]) == 10
        assert len(by_alembic["indexes"]) == 2
    engine.dispose()


def described(connection: Connection) -> dict[str, Any]:
    """Give what the database says of the table."""
    seen = inspect(connection)
    columns = [{**column, "type": repr(column["type"])} for column in seen.get_columns(TABLE)]
    return {
        "columns": columns,
        "key": seen.get_pk_constraint(TABLE),
        "indexes": sorted(seen.get_indexes(TABLE), key=lambda index: str(index["name"])),
        "options": seen.get_table_options(TABLE) if connection.dialect.name == "mariadb" else None,
    }


def test_a_difference_would_be_seen(tmp_path: Path) -> None:
    """A column too many, and an index too few, are differences to Alembic."""
    engine = create_engine(f"sqlite:///{tmp_path / 'tokens.db'}")
    SQLAlchemyStore(engine).create_table()
    metadata = MetaData()
    table = build_table(metadata)
    table.indexes.pop()
    with engine.begin() as connection:
        assert len(compare_metadata(MigrationContext.configure(connection), metadata)) == 1
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} ADD COLUMN more INTEGER")
        assert len(compare_metadata(MigrationContext.configure(connection), metadata)) == 2
    engine.dispose()


def test_the_page_describes_each_column() -> None:
    """The columns of the table, in its order, and no others."""
    told = re.findall(r"^``(\w+)`` +``(?:VARCHAR|TEXT|BOOLEAN|BIGINT)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert told == [column.name for column in build_table().columns]
