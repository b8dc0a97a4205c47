"""The schemas of earlier revisions."""

import asyncpg

# What undoes each migration, the newest first.
UNDONE = {
    "0006": "ALTER TABLE stages DROP COLUMN columns_due",
    "0005": "DROP TABLE lost_outputs; ALTER TABLE workers DROP COLUMN release",
    "0004": "DROP INDEX bundles_put_off",
    "0003": "ALTER TABLE bundles DROP COLUMN put_off; DROP TABLE schema_compatibility",
}


async def go_back(url: str, revision: str) -> None:
    """Leave the database as it was at that revision."""
    connection = await asyncpg.connect(url)
    for undone, statements in UNDONE.items():
        if undone > revision:
            await connection.execute(statements)
    await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
    await connection.close()
