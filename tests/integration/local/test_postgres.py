"""The embedded server: what it survives, and where it can live."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import EmbeddedPostgres, PostgresError

Open = Callable[[Path], EmbeddedPostgres]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not pytest's tmp_path: a second session of pytest closes that to the user whom root's server runs as."""
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def open_server() -> Iterator[Open]:
    """Start servers that are stopped at the end of the test."""
    servers: list[EmbeddedPostgres] = []

    def start(data: Path) -> EmbeddedPostgres:
        server = EmbeddedPostgres(data)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


async def write_row(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.url("postgres"))
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    await connection.close()


async def read_row(server: EmbeddedPostgres) -> int:
    connection = await asyncpg.connect(server.url("postgres"))
    try:
        return int(await connection.fetchval("SELECT value FROM kept"))
    finally:
        await connection.close()


async def test_rows_survive_a_stop(open_server: Open, directory: Path) -> None:
    server = open_server(directory / "data")
    await write_row(server)
    server.stop()
    server.start()
    assert await read_row(server) == 42


async def test_committed_rows_survive_a_kill(open_server: Open, directory: Path) -> None:
    server = open_server(directory / "data")
    await write_row(server)
    server.kill()
    server.start()
    assert await read_row(server) == 42


async def test_a_stale_process_id_that_another_process_has_now_is_not_an_obstacle(
    open_server: Open, directory: Path
) -> None:
    server = open_server(directory / "data")
    await write_row(server)
    server.kill()
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    server.start()

    assert await read_row(server) == 42


async def test_a_server_that_was_left_running_is_replaced(open_server: Open, directory: Path) -> None:
    left = open_server(directory / "data")
    await write_row(left)

    server = open_server(directory / "data")

    assert await read_row(server) == 42
    assert server.pid != left.pid


async def test_a_path_too_long_for_a_socket_and_with_spaces(open_server: Open, directory: Path) -> None:
    server = open_server(directory / ("a long way, down " * 8).strip() / "data")
    await write_row(server)
    assert await read_row(server) == 42


async def test_data_of_a_release_that_asked_for_no_password_gets_them(open_server: Open, directory: Path) -> None:
    server = open_server(directory / "data")
    await write_row(server)
    server.stop()
    (server.data / "pg_hba.conf").write_text("local all all trust\n")
    server.data.with_name("data.passwords.json").unlink()

    upgraded = open_server(directory / "data")

    assert await read_row(upgraded) == 42
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(upgraded.url("postgres").replace(upgraded.passwords["postgres"], "guessed"))


async def test_commits_are_durable_and_connections_enough_for_a_grid(open_server: Open, directory: Path) -> None:
    connection = await asyncpg.connect(open_server(directory / "data").url("postgres"))
    rows = await connection.fetch(
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'max_connections')"
    )
    await connection.close()
    assert dict(rows) == {"fsync": "on", "synchronous_commit": "on", "max_connections": "200"}


def test_data_of_another_major_version_is_named(directory: Path) -> None:
    data = directory / "data"
    data.mkdir(mode=0o700)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(PostgresError, match="was made by Postgres 16, this is 18"):
        EmbeddedPostgres(data).start()


def test_a_process_that_used_a_server_ends_without_a_word(directory: Path) -> None:
    program = """
import sys
from pathlib import Path
from deploy.local.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
server.stop()
"""
    run = subprocess.run(
        [sys.executable, "-c", program, directory / "data"], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0
    assert "Traceback" not in run.stderr
    assert "ignored" not in run.stderr
