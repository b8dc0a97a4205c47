"""Every client of Postgres speaks TLS with the server that it was told to trust, and with no other."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from services.api.main import create_app as create_api
from services.engine.schema import NEEDED_REVISION
from services.platform.aws import Aws
from services.platform.database import JOBS_CHANNEL, connect_alone, connect_database
from services.platform.database_access import DatabaseAccess, NotLetIn
from services.platform.settings import ApiSettings, Settings
from services.scheduler.loop import Loop, listen
from services.scheduler.quiet import Quiet
from services.stats.main import create_app as create_stats
from tests.certificates import Authority
from tests.forks import Fork
from tests.grid import ProcessGrid
from tests.storm.database_proxy import DatabaseProxy
from tests.until import until

Access = Callable[..., dict[str, Any]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority.crt")


@pytest.fixture
async def server(database_url: str, authority: Authority) -> AsyncIterator[DatabaseProxy]:
    """Postgres as RDS is with rds.force_ssl, by the name localhost."""
    proxy = DatabaseProxy(database_url, authority.server("localhost"))
    await proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def trusting(server: DatabaseProxy, authority: Authority) -> dict[str, Any]:
    """Settings that are right."""
    return {
        "database_url": server.url.replace("127.0.0.1", "localhost"),
        "database_tls": "verify-full",
        "database_ca": str(authority.path),
    }


def wrong_authority(settings: dict[str, Any]) -> dict[str, Any]:
    other = Authority(Path(settings["database_ca"]).with_name("other.crt"))
    return settings | {"database_ca": str(other.path)}


def wrong_name(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"database_url": settings["database_url"].replace("localhost", "127.0.0.1")}


UNTRUSTED = [
    pytest.param(
        wrong_authority, r"is not trusted: .*PIECEWORK_DATABASE_CA \(.*other\.crt\) must have", id="authority"
    ),
    pytest.param(wrong_name, r"is not for its name: .*127\.0\.0\.1.*PIECEWORK_DATABASE_URL must name", id="name"),
]


async def run_module(module: str, settings: dict[str, Any], log: Path) -> tuple[int, str]:
    """The exit code and the output of `python -m module`."""
    environment = os.environ | {f"PIECEWORK_{name.upper()}": str(value) for name, value in settings.items()}
    process = Fork(module, env=environment, log=log)
    return await process.ended(), process.output


async def test_migrate_verifies_the_server(trusting: dict[str, Any], tmp_path: Path) -> None:
    assert await run_module("services.engine.migrate", trusting, tmp_path / "log") == (
        0,
        f"the schema is at {NEEDED_REVISION}: nothing to do\n",
    )


@pytest.mark.parametrize(("spoil", "reason"), UNTRUSTED)
@pytest.mark.parametrize("module", ["services.engine.migrate", "services.engine.restore"])
async def test_a_command_says_in_a_line_whom_it_does_not_trust(
    trusting: dict[str, Any], module: str, spoil: Access, reason: str, tmp_path: Path
) -> None:
    code, output = await run_module(module, spoil(trusting), tmp_path / "log")

    assert code == 1
    assert output.count("\n") == 1
    with pytest.raises(NotLetIn, match=reason):
        raise NotLetIn(output)


@pytest.mark.parametrize("make", [create_api, create_stats])
async def test_a_service_of_http_verifies_the_server(
    settings: ApiSettings, trusting: dict[str, Any], make: Any
) -> None:
    right = ApiSettings(**settings.model_dump() | trusting | {"bootstrap_api_key": "pw_first"})
    app = make(right)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        assert (await client.get("/readyz")).status_code == 200
        for path in ("/v1/jobs", "/v1/pools") if make is create_api else ():  # by SQLAlchemy, by asyncpg
            await until(lambda path=path: is_served(client, path))


async def is_served(client: httpx.AsyncClient, path: str) -> bool:
    return (await client.get(path, headers={"authorization": "Bearer pw_first"})).is_success


@pytest.mark.parametrize(("spoil", "reason"), UNTRUSTED)
async def test_no_client_speaks_with_a_server_that_it_does_not_trust(
    settings: ApiSettings, trusting: dict[str, Any], spoil: Access, reason: str
) -> None:
    wrong = ApiSettings(**settings.model_dump() | spoil(trusting))
    pool = await connect_database(wrong)
    with pytest.raises(NotLetIn, match=reason):
        await pool.fetchval("SELECT 1")
    with pytest.raises(NotLetIn, match=reason):
        await connect_alone(wrong)
    pool.terminate()
    for app in (create_api(wrong), create_stats(wrong)):
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
        ):
            assert (await client.get("/readyz")).status_code == 503


async def test_the_scheduler_listens_by_tls(
    settings: ApiSettings, trusting: dict[str, Any], server: DatabaseProxy
) -> None:
    async def nothing(_: object) -> bool:
        return False

    loop = Loop("mine", nothing, 3600.0, 3600.0, frozenset([JOBS_CHANNEL]))
    listening = asyncio.create_task(listen(ApiSettings(**settings.model_dump() | trusting), [loop], Quiet()))
    try:
        await asyncio.wait_for(loop.wake.wait(), 10)
        assert len(server.links) == 1
    finally:
        listening.cancel()
        await asyncio.wait({listening})


async def test_scheduler_and_worker_run_a_job_by_tls(
    settings: ApiSettings,
    database: Any,
    aws: Aws,
    trusting: dict[str, Any],
    server: DatabaseProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIECEWORK_ISOLATION", "process")
    grid = ProcessGrid(ApiSettings(**settings.model_dump() | trusting), database, aws, tmp_path)
    await grid.prepare()
    try:
        grid.start_scheduler()
        grid.start_worker()
        assert (await grid.ended(await grid.submit_small()))["state"] == "succeeded"
        assert len(server.links) >= 2
    finally:
        grid.stop()


async def test_new_certificates_of_authorities_are_read_again(trusting: dict[str, Any], authority: Authority) -> None:
    stale = wrong_authority(trusting)
    with pytest.raises(NotLetIn):
        await connect_alone(Settings(**stale))

    authority.path.replace(stale["database_ca"])

    connection = await connect_alone(Settings(**stale))
    await connection.close()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"database_url": "postgresql://h/d?ssl=require"}, "it has the option 'ssl'; there are only host, port, user"),
        ({"database_url": "postgresql://h/d?sslmode=yes"}, "its sslmode is 'yes'; write one of disable, prefer"),
        ({"database_url": "postgresql://h/d?sslrootcert=/none"}, "/none can't be read: No such file or directory"),
        ({"database_ca": "/none"}, "/none can't be read: No such file or directory"),
        ({"database_ca": __file__}, "it has no certificate in PEM form"),
        ({"database_tls": "verify-full"}, "set it, since PIECEWORK_DATABASE_TLS is verify-full"),
        (
            {"database_tls": "require", "database_url": "postgresql://h/d?sslmode=disable"},
            "PIECEWORK_DATABASE_URL has sslmode, too; leave one of them out",
        ),
    ],
)
def test_settings_that_no_client_could_follow_are_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**settings)

    assert fault in refused.value.errors()[0]["msg"]


def test_an_authority_alone_means_that_the_server_is_verified(authority: Authority) -> None:
    way = DatabaseAccess.of(Settings(database_url="postgresql://u@h/d", database_ca=str(authority.path)))

    assert way.url == f"postgresql://u@h/d?sslmode=verify-full&sslrootcert={str(authority.path).replace('/', '%2F')}"
