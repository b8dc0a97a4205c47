"""The models of services.api.tables say what the migrations make."""

from typing import Any

import asyncpg
from sqlalchemy import Column
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

import services.api.tables  # noqa: F401
from services.platform.database import Database

_UNMODELLED = {("attempts", "txid")}  # only the roll-up's SQL knows of it

# The tables that the API does not list: only the SQL of services knows of them.
_UNLISTED = {
    *("alembic_version", "schema_compatibility"),
    *("bundles", "lost_outputs", "scheduler_loops", "queue_messages", "idempotency_keys"),
    *("clock", "schedulers", "database_watch", "job_dependencies", "ended_jobs"),
    *("deleted_jobs", "left_rows", "packages"),
    *("stats_watermark", "stage_stats", "pool_stats", "stage_minutes", "worker_minutes", "cost_days"),
}

_COLUMNS = """
    SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
        NOT a.attnotnull AS nullable
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped"""

_PRIMARY_KEYS = """
    SELECT conrelid::regclass::text AS table,
        ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS k (number, place)
              JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place) AS columns
    FROM pg_constraint JOIN pg_class AS c ON c.oid = conrelid
    WHERE contype = 'p' AND c.relnamespace = 'public'::regnamespace"""


def sql_type(column: Column[Any]) -> str:
    """The type's name as Postgres writes it; SQLModel's strings are of type text."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return column.type.compile(dialect=dialect).lower().replace("varchar", "text")


async def test_every_column_has_the_type_and_nullability_of_the_schema(database: Database) -> None:
    rows: list[asyncpg.Record] = await database.fetch(_COLUMNS)
    schema = {
        (row["table"], row["column"]): (row["type"], row["nullable"])
        for row in rows
        if row["table"] in SQLModel.metadata.tables and (row["table"], row["column"]) not in _UNMODELLED
    }

    models = {
        (table.name, column.name): (sql_type(column), bool(column.nullable))
        for table in SQLModel.metadata.tables.values()
        for column in table.columns
    }

    assert models == schema


async def test_every_table_is_modelled_unless_the_api_has_no_list_of_it(database: Database) -> None:
    schema = {row["table"] for row in await database.fetch(_COLUMNS)}

    assert schema == {table.name for table in SQLModel.metadata.tables.values()} | _UNLISTED


async def test_every_primary_key_is_that_of_the_schema(database: Database) -> None:
    schema = {row["table"]: row["columns"] for row in await database.fetch(_PRIMARY_KEYS)}

    models = {table.name: [column.name for column in table.primary_key] for table in SQLModel.metadata.tables.values()}

    del models["attempts"]  # append only: it has none
    assert models == {table: key for table, key in schema.items() if table in models}
