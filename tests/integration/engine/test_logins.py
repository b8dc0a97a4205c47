"""The services' users of the database on RDS, which log in by IAM."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres
from services.engine.logins import make_logins
from services.engine.migrate import migrate
from services.engine.roles import SERVICES

MEMBERS = """
    SELECT m.member::regrole::text AS login, array_agg(m.roleid::regrole::text) AS roles
    FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.member WHERE r.rolcanlogin GROUP BY 1"""


@pytest.fixture
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server of the test's own: users belong to all databases of one."""
    server = EmbeddedPostgres(Path(tmp_path_factory.mktemp("server")) / "data")
    server.start()
    yield await server.create_database("grid")
    server.stop()


async def test_each_service_gets_a_user_that_is_let_in_by_iam(url: str) -> None:
    assert "no role rds_iam" in str(await make_logins(url))
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE ROLE rds_iam")
    assert "run services.engine.migrate first" in str(await make_logins(url))
    await migrate(url)

    for _ in range(2):  # it may be repeated
        assert await make_logins(url) is None

    assert {row["login"]: set(row["roles"]) for row in await connection.fetch(MEMBERS)} == {
        f"piecework_{service}_login": {f"piecework_{service}", "rds_iam"} for service in SERVICES
    }
    await connection.close()
