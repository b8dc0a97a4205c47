"""The initial schema, in the SQL file of the same name."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text()
    adapted = op.get_bind().connection.dbapi_connection
    assert adapted is not None
    # A script of many statements can't be prepared, so it goes to asyncpg's own simple-query execute().
    adapted.run_async(lambda connection: connection.execute(script))


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead: downgrading would drop every table")
