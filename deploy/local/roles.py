"""Passwords for the database users of the local stack's services."""

import asyncpg

from services.engine.logins import LOGINS, make_logins


async def ensure_logins(connection: asyncpg.Connection, passwords: dict[str, str]) -> None:
    """Each user exists, has its password and may do what its role may; `passwords` is by user."""
    await make_logins(connection)
    for login in LOGINS.values():
        password = await connection.fetchval("SELECT quote_literal($1::text)", passwords[login])
        await connection.execute(f"ALTER ROLE {login} PASSWORD {password}")
