"""The database users of the local stack's services: one each, a member of the role that the migrations made for it."""

import asyncpg

from services.engine.roles import SERVICES

LOGINS = {service: f"piecework_{service}_login" for service in SERVICES}


async def ensure_logins(connection: asyncpg.Connection, passwords: dict[str, str]) -> None:
    """Each user exists, has its password and may do what its role may; `passwords` is by user."""
    for service, login in LOGINS.items():
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", login):
            await connection.execute(f"CREATE ROLE {login} LOGIN")
        password = await connection.fetchval("SELECT quote_literal($1::text)", passwords[login])
        await connection.execute(f"ALTER ROLE {login} PASSWORD {password}")
        await connection.execute(f"GRANT piecework_{service} TO {login}")
