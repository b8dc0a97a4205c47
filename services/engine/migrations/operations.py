"""What a migration is made of: a script of SQL in one transaction, or an index built while the services go on."""

from pathlib import Path

from alembic import op
from sqlalchemy import text


def run_script(migration: str) -> None:
    """Run the SQL file beside the migration (`__file__`), in the migration's transaction."""
    op.execute("SELECT")  # SQLAlchemy begins its transaction with the first statement that it sees
    script = Path(migration).with_suffix(".sql").read_text()
    adapted = op.get_bind().connection.dbapi_connection
    assert adapted is not None
    # A script of many statements can't be prepared, so it goes to asyncpg's own simple-query execute().
    adapted.run_async(lambda connection: connection.execute(script))


def run_parts(migration: str) -> None:
    """Run the parts of the SQL file beside the migration, each in a transaction of its own: none holds a lock for long.

    Any part may fail for a table in use, and then the migration begins again: each must be repeatable. A part that is
    one DO block may commit within it.
    """
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")  # what takes long, a scan, holds nobody up
        adapted = op.get_bind().connection.dbapi_connection
        assert adapted is not None
        for part in Path(migration).with_suffix(".sql").read_text().split("\n-- next part\n"):
            adapted.run_async(lambda connection, part=part: connection.execute(part))


def build_index(name: str, on: str, *, unique: bool = False) -> None:
    """Build an index CONCURRENTLY; `on` is what follows ON in CREATE INDEX. Not for partitioned tables.

    This runs outside a transaction, so it must be all that its migration does. What a crash left of an earlier try, an
    invalid index of this name, is dropped first (https://www.postgresql.org/docs/current/sql-createindex.html).
    """
    with op.get_context().autocommit_block():
        # It waits for older transactions to end, but nobody waits for it: no time-out need end it.
        op.execute("SET lock_timeout = 0")
        op.execute("SET statement_timeout = 0")
        invalid = text("SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid)")
        if op.get_bind().scalar(invalid, {"name": name}):
            op.execute(f'DROP INDEX CONCURRENTLY "{name}"')
        kind = "UNIQUE INDEX" if unique else "INDEX"
        op.execute(f'CREATE {kind} CONCURRENTLY IF NOT EXISTS "{name}" ON {on}')


# Partitions without an index that belongs to that of the whole.
_LACKING = text("""
    SELECT p.inhrelid::regclass::text FROM pg_inherits AS p
    WHERE p.inhparent = to_regclass(:table) AND NOT EXISTS (
        SELECT FROM pg_index AS x JOIN pg_inherits AS i ON i.inhrelid = x.indexrelid
        WHERE x.indrelid = p.inhrelid AND i.inhparent = to_regclass(:index))""")


def build_partitioned_index(table: str, name: str, on: str) -> None:
    """Build the index TABLE_NAME of a partitioned table: CONCURRENTLY on each partition, then on the whole in no time.

    Partitions that schedulers make meanwhile get theirs when the whole has it, by a name of Postgres' choice. It is all
    that its migration does, like `build_index`; repeated after a crash, it goes on.
    """
    bind = op.get_bind()
    if bind.scalar(text("SELECT relkind = 'r' FROM pg_class WHERE oid = to_regclass(:table)"), {"table": table}):
        build_index(f"{table}_{name}", f"{table} {on}")
        return
    lacking = {"table": table, "index": f"{table}_{name}"}
    for partition in bind.scalars(_LACKING, lacking).all():
        build_partitioned_index(partition, name, on)
    _at_once(f"CREATE INDEX IF NOT EXISTS {table}_{name} ON ONLY {table} {on}")
    for partition in bind.scalars(_LACKING, lacking).all():
        build_partitioned_index(partition, name, on)
        _at_once(f"ALTER INDEX {table}_{name} ATTACH PARTITION {partition}_{name}")


def _at_once(statement: str) -> None:
    """Run a statement that others wait for: it fails if it waits for them, and the migration begins again."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '1s'")
        op.execute(statement)
