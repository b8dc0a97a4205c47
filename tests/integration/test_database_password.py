"""A password that changes while the grid works costs no attempt: whoever is refused reads it again."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import CredentialRetrievalError
from botocore.session import get_session as get_botocore_session
from pydantic import ValidationError

from services.platform.aws import Aws
from services.platform.database import UNAVAILABLE, Database, connect_alone, connect_database
from services.platform.database_access import DatabaseAccess, NotLetIn, access
from services.platform.database_password import sign_token
from services.platform.settings import ApiSettings, Settings, read_settings
from tests.certificates import Authority
from tests.grid import ProcessGrid
from tests.storm.database_proxy import DatabaseProxy
from tests.until import until


class Users:
    """Database users of the test's own, one for each service, with the same password."""

    def __init__(self, database: Database, file: Path) -> None:
        self._database, self.file = database, file
        self._suffix = uuid4().hex[:8]

    def name(self, service: str) -> str:
        return f"{service}_{self._suffix}"

    async def make(self, *services: str) -> None:
        for service in services:
            await self._database.execute(f"CREATE ROLE {self.name(service)} LOGIN IN ROLE piecework_{service}")
        self._services = services
        self.write(await self.change())

    async def change(self) -> str:
        """The server has a new password; the file not yet."""
        password = secrets.token_hex(16)
        for service in self._services:
            await self._database.execute(f"ALTER ROLE {self.name(service)} PASSWORD '{password}'")
        return password

    def write(self, password: str) -> None:
        self.file.write_text(f"{password}\n")

    async def drop(self) -> None:
        for service in self._services:
            await self._database.execute(f"DROP ROLE {self.name(service)}")

    def settings(self, url: str, service: str) -> dict[str, Any]:
        place = urlsplit(url)
        without = place._replace(netloc=f"{self.name(service)}@{place.netloc.rpartition('@')[2]}").geturl()
        return {"database_url": without, "database_password_from": f"file:{self.file}"}


@pytest.fixture
async def users(database: Database, tmp_path: Path) -> AsyncIterator[Users]:
    users = Users(database, tmp_path / "password")
    await users.make("scheduler", "worker")
    yield users
    await users.drop()


async def test_a_password_changed_under_load_fails_no_attempt(
    settings: ApiSettings,
    database: Database,
    aws: Aws,
    proxy: DatabaseProxy,
    users: Users,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIECEWORK_ISOLATION", "process")
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()

    async def ended(count: int) -> bool:
        return bool(await database.fetchval("SELECT count(*) >= $1 FROM attempts", count))

    try:
        grid.start_scheduler(**users.settings(proxy.url, "scheduler"))
        grid.start_worker(**users.settings(proxy.url, "worker"))
        job_id = await grid.submit_small(part_bytes=1_000)
        for count in (2, 6):
            await until(lambda count=count: ended(count))
            password = await users.change()
            for link in list(proxy.links):
                link.cut()
            await asyncio.sleep(0.5)  # as long as a rotation leaves the old one in the secret
            users.write(password)

        assert (await grid.ended(job_id))["state"] == "succeeded"
    finally:
        await asyncio.to_thread(grid.stop)
    await grid.assert_nothing_cut(job_id)


async def test_a_pool_reads_the_password_once_and_again_when_it_is_refused(
    proxy: DatabaseProxy, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.platform.database_password._AGAIN_SECONDS", 0.0)
    pool = await connect_database(Settings(**users.settings(proxy.url, "worker")))
    assert await pool.fetchval("SELECT 1") == 1
    users.write("wrong")
    await pool.expire_connections()
    assert await pool.fetchval("SELECT 2") == 2

    password = await users.change()
    await pool.expire_connections()
    with pytest.raises(NotLetIn, match=r"password authentication failed .*PIECEWORK_DATABASE_PASSWORD_FROM"):
        await pool.fetchval("SELECT 3")

    users.write(password)
    assert await pool.fetchval("SELECT 4") == 4
    await pool.close()


@pytest.mark.both_emulators("GetSecretValue")
async def test_a_password_is_read_from_secrets_manager(
    settings: ApiSettings, proxy: DatabaseProxy, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.platform.database_password._AGAIN_SECONDS", 0.0)
    endpoint = settings.aws_endpoint_url
    async with get_session().create_client("secretsmanager", endpoint_url=endpoint) as client:
        text = json.dumps({"password": users.file.read_text().strip()})
        arn = (await client.create_secret(Name=f"test-{uuid4().hex}", SecretString=text))["ARN"]
        way = users.settings(proxy.url, "worker") | {"aws_endpoint_url": endpoint}

        with pytest.raises(NotLetIn, match='name the key that has the password, as in "ARN#password"'):
            await connect_alone(Settings(**way | {"database_password_from": arn}))

        right = Settings(**way | {"database_password_from": f"{arn}#password"})
        await (await connect_alone(right)).close()
        password = await users.change()
        await client.put_secret_value(SecretId=arn, SecretString=json.dumps({"password": password}))
        await (await connect_alone(right)).close()


async def test_a_password_that_is_nowhere_is_named(proxy: DatabaseProxy, users: Users) -> None:
    users.file.unlink()

    with pytest.raises(NotLetIn, match=r"PIECEWORK_DATABASE_PASSWORD_FROM.* can't be read: No such file or directory"):
        await connect_alone(Settings(**users.settings(proxy.url, "worker")))


async def test_a_program_of_postgres_gets_the_password_in_its_environment(proxy: DatabaseProxy, users: Users) -> None:
    way = access(Settings(**users.settings(proxy.url, "worker")))
    password = users.file.read_text().strip()

    assert await way.for_programs() == (way.url, {"PGPASSWORD": password})
    assert await DatabaseAccess("postgresql://u:p%40ss@h/d?sslmode=require").for_programs() == (
        "postgresql://u@h/d?sslmode=require",
        {"PGPASSWORD": "p@ss"},
    )


async def test_a_program_of_postgres_gets_the_password_of_now(
    proxy: DatabaseProxy, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't read it again when the server refuses the old one, which this process has got in with."""
    monkeypatch.setattr("services.platform.database_password._AGAIN_SECONDS", 0.0)
    way = access(Settings(**users.settings(proxy.url, "worker")))
    await (await way.connect()).close()
    users.write(password := await users.change())

    assert await way.for_programs() == (way.url, {"PGPASSWORD": password})

    users.file.unlink()
    with pytest.raises(NotLetIn, match=r"PIECEWORK_DATABASE_PASSWORD_FROM.* is missing: it can't be read"):
        await way.for_programs()


def test_a_token_of_rds_is_what_the_aws_library_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))
    host = "grid.abc.eu-west-1.rds.amazonaws.com"
    session = get_botocore_session()
    client = session.create_client("rds", region_name="eu-west-1")
    credentials = session.get_credentials().get_frozen_credentials()

    token = sign_token(credentials, "eu-west-1", host, 5432, "piecework_worker")

    assert token == client.generate_db_auth_token(host, 5432, "piecework_worker")
    assert token.startswith(f"{host}:5432/?Action=connect&DBUser=piecework_worker&X-Amz-Algorithm=AWS4-HMAC-SHA256&")


async def test_iam_signs_a_token_for_each_connection(authority_settings: dict[str, Any]) -> None:
    way = access(Settings(**authority_settings))
    assert way.password is not None

    token = await way.password.current()

    assert token.startswith("db.internal:6432/?Action=connect&DBUser=my%20worker&")
    assert "%2Frds-db%2Faws4_request" in token and "X-Amz-Expires=900" in token
    assert not await way.password.renewed(token)


async def test_without_credentials_the_database_is_away_and_nothing_else(
    authority_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise CredentialRetrievalError(provider="iam-role", error_msg="no answer")

    monkeypatch.setattr("services.platform.aws.find_credentials", fail)

    with pytest.raises(
        UNAVAILABLE, match=r"password .* is missing: AWS gives this process no credentials now: .*no answer"
    ):
        await connect_alone(Settings(**authority_settings))


@pytest.fixture
def authority_settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "database_url": f"postgresql://{quote('my worker')}@db.internal:6432/piecework",
        "database_password_from": "iam",
        "database_ca": str(Authority(tmp_path / "ca.crt").path),
    }


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"database_password_from": "file:password"}, "'file:password' is not a file's absolute path"),
        ({"database_password_from": "env:PASSWORD"}, "'env:PASSWORD' is not a source"),
        ({"database_password_from": "secret"}, "'secret' is not a reference to a secret"),
        (
            {"database_url": "postgresql://u:p@h/d", "database_password_from": "file:/run/password"},
            "PIECEWORK_DATABASE_URL has a password; leave one of them out",
        ),
        (
            {"database_url": "postgresql://u@h/d", "database_password_from": "iam"},
            "set it: iam's token is for no other",
        ),
        (
            {"database_url": "postgresql:///d", "database_password_from": "iam"},
            "iam needs the server's name and the user",
        ),
    ],
)
def test_a_source_that_gives_no_password_is_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**settings)

    assert fault in refused.value.errors()[0]["msg"]


def test_a_process_that_can_not_start_says_so_without_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_settings(Settings, database_url="postgresql://u:hush@h/d", database_password_from="file:/run/password")

    fault = "PIECEWORK_DATABASE_PASSWORD_FROM: PIECEWORK_DATABASE_URL has a password; leave one of them out\n"
    assert capsys.readouterr().err == fault
