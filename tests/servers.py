"""Postgres servers that tests start, and kill."""

import asyncpg

from deploy.local.postgres import EmbeddedPostgres


async def spare_the_disk(server: EmbeddedPostgres) -> None:
    """No commit or recovery waits for the disk, which other tests keep busy: they kill processes, not machines."""
    connection = await asyncpg.connect(server.url("postgres"))
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
