"""The services' database users, in tests: each has the superuser's password, but only the rights of its role."""

from urllib.parse import urlsplit

import asyncpg

from deploy.local.roles import ensure_logins
from services.engine.logins import LOGINS


def as_role(database_url: str, service: str) -> str:
    """The same database for a service: api, scheduler, worker, stats."""
    credentials, _, place = database_url.removeprefix("postgresql://").rpartition("@")
    return f"postgresql://{LOGINS[service]}:{credentials.partition(':')[2]}@{place}"


def as_owner(database_url: str) -> str:
    """The same database for the superuser, who owns it."""
    credentials, _, place = database_url.removeprefix("postgresql://").rpartition("@")
    return f"postgresql://postgres:{credentials.partition(':')[2]}@{place}"


async def let_in(connection: asyncpg.Connection, database_url: str) -> None:
    """The users exist; `connection` is the superuser's."""
    password = urlsplit(database_url).password or ""
    await ensure_logins(connection, dict.fromkeys(LOGINS.values(), password))
