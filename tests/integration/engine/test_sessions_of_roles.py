"""The workers' users have what their statements need without a word at the connection, which a pooler would refuse."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.engine import logins
from services.engine.roles import set_up_roles
from services.platform.database import (
    POOLED_PLANNER,
    UnsetSessions,
    check_pooled_sessions,
    connect_database,
    time_limits,
)
from services.platform.settings import Settings, WorkerSettings
from tests.roles import as_role

_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"


def pooled(url: str, service: str) -> WorkerSettings:
    """A way that says nothing of sessions, as to PgBouncer."""
    return WorkerSettings(database_url=as_role(url, service), database_pooler=True)


@pytest.fixture
async def owner(own_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(own_database_url)
    yield connection
    await connection.close()


async def test_a_migration_gives_them_to_the_workers_users_alone(
    owner: asyncpg.Connection, own_database_url: str
) -> None:
    assert await set_up_roles(owner) is None
    assert await set_up_roles(owner) is None  # again
    workers = await connect_database(pooled(own_database_url, "worker"))
    others = await connect_database(pooled(own_database_url, "stats"))

    assert (
        dict(map(tuple, await workers.fetch(_SETTINGS, [*POOLED_PLANNER, *time_limits()])))
        == POOLED_PLANNER | time_limits()
    )
    await check_pooled_sessions(workers)
    with pytest.raises(UnsetSessions, match=r"enable_hashjoin = on instead of off: run .*migrate"):
        await check_pooled_sessions(others)
    await workers.close()
    await others.close()


async def test_who_may_not_give_them_is_told_what_an_administrator_must_run(
    owner: asyncpg.Connection, own_database_url: str
) -> None:
    await owner.execute("CREATE ROLE migrating_alone LOGIN; GRANT ALL ON SCHEMA public TO migrating_alone")
    try:
        async with owner.transaction():
            tables = await owner.fetch(
                "SELECT format('%I', relname) AS t FROM pg_class WHERE relkind IN ('r', 'p', 'v') "
                "AND relnamespace = 'public'::regnamespace"
            )
            for row in tables:
                await owner.execute(f"ALTER TABLE {row['t']} OWNER TO migrating_alone")
            functions = await owner.fetch(
                "SELECT oid::regprocedure AS f FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            )
            for row in functions:
                await owner.execute(f"ALTER ROUTINE {row['f']} OWNER TO migrating_alone")
        await owner.execute("SET ROLE migrating_alone")
        advice = await set_up_roles(owner)
    finally:
        await owner.execute("RESET ROLE")
        await owner.execute("REASSIGN OWNED BY migrating_alone TO postgres; DROP OWNED BY migrating_alone")
        await owner.execute("DROP ROLE migrating_alone")

    assert advice is not None
    assert "ALTER ROLE piecework_worker_login IN DATABASE" in advice and "enable_seqscan = 'off'" in advice


async def test_on_rds_the_services_users_log_in_by_tokens(
    owner: asyncpg.Connection, own_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await owner.execute("CREATE ROLE rds_iam NOLOGIN")
    try:
        await logins.main(Settings(database_url=own_database_url))
        await logins.main(Settings(database_url=own_database_url))  # again
        members = "SELECT pg_has_role($1, 'rds_iam', 'member') AND pg_has_role($1, $2, 'member')"
        for service, login in logins.LOGINS.items():
            assert await owner.fetchval(members, login, f"piecework_{service}")
    finally:
        await owner.execute("DROP ROLE rds_iam")

    await logins.main(Settings(database_url=own_database_url))
    first, _, last = capsys.readouterr().out.splitlines()
    assert first.startswith("the services log in by tokens of IAM: piecework_api_login, ")
    assert last.startswith("the services log in with the passwords that they are given: piecework_api_login, ")


async def test_who_may_make_no_users_is_told_who_may(own_database_url: str) -> None:
    environment = os.environ | {"PIECEWORK_DATABASE_URL": as_role(own_database_url, "worker")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.engine.logins"), env=environment, stderr=asyncio.subprocess.PIPE
    )

    _, error = await process.communicate()

    assert process.returncode == 1
    assert error.decode().endswith("; run this as the user that migrates, after the migration\n")
