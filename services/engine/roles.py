"""A Postgres role for each service, with just the rights that its statements use (migrations/grants.sql).

They are group roles without a login; whoever runs the grid makes the services' users and grants each its role. Roles
belong to the whole server, so any number of databases may make them at once.
"""

import asyncio
from pathlib import Path

import asyncpg

from services.platform.database import POOLED_PLANNER, time_limits

SERVICES = ("api", "scheduler", "worker", "stats")
ROLES = tuple(f"piecework_{service}" for service in SERVICES)

_GRANTS = Path(__file__).parent / "migrations" / "grants.sql"
_POOLER_ADVICE = (
    "the workers' users have no settings of their own ({reason}), which only workers behind a pooler need; for these, "
    "let an administrator run `{statements}`"
)
_TRIES = 5

# The members of a role who can log in, and what this database gives their sessions already.
_MEMBERS = """
    SELECT quote_ident(r.rolname) AS user, coalesce(s.setconfig, '{}') AS settings
    FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.member
    LEFT JOIN pg_db_role_setting AS s ON s.setrole = r.oid
        AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    WHERE m.roleid = $1::regrole AND r.rolcanlogin ORDER BY 1"""
_ADVICE = (
    "the roles of the services are not set up ({reason}): the services can go on with the user that they have. For a "
    "role each, let an administrator run `{statements}`, and migrate again as the owner of the tables"
)


async def set_up_roles(connection: asyncpg.Connection) -> str | None:
    """Make the roles that are missing, and give all of them their rights; what is wrong, if that is not allowed."""
    found = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
    missing = [f"CREATE ROLE {role} NOLOGIN" for role in ROLES if role not in found]
    try:
        for statement in missing:
            try:
                await connection.execute(statement)
            except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
                continue  # another database's migration has just made it
        await _grant(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        return _ADVICE.format(reason=error, statements="; ".join(missing) or _GRANTS.name)
    return await set_up_sessions(connection)


async def _grant(connection: asyncpg.Connection) -> None:
    """Take all rights away and give those that are listed, in one transaction: services notice nothing."""
    for left in reversed(range(_TRIES)):
        try:
            async with connection.transaction():
                await connection.execute(_GRANTS.read_text())
            return
        except asyncpg.InternalServerError:  # "tuple concurrently updated": a scheduler has just made a partition
            if not left:
                raise
            await asyncio.sleep(0.1)


async def set_up_sessions(connection: asyncpg.Connection) -> str | None:
    """Give the workers' users in this database what a pooler can't be told when a worker connects to it.

    A user does not get those of its group: https://www.postgresql.org/docs/current/sql-alterrole.html.
    """
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    statements = [
        f"ALTER ROLE {row['user']} IN DATABASE {database} SET {name} = '{value}'"
        for row in await connection.fetch(_MEMBERS, "piecework_worker")
        for name, value in (POOLED_PLANNER | time_limits()).items()
        if f"{name}={value}" not in row["settings"]
    ]
    try:
        for statement in statements:
            await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        return _POOLER_ADVICE.format(reason=error, statements="; ".join(statements))
    return None
