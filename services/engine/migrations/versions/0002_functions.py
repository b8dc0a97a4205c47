"""What several statements say alike, as functions of the schema."""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text()
    adapted = op.get_bind().connection.dbapi_connection
    assert adapted is not None
    # A script of many statements can't be prepared, so it goes to asyncpg's own simple-query execute().
    adapted.run_async(lambda connection: connection.execute(script))


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead: what was submitted since then needs the new columns")
