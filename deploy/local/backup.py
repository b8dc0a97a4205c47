"""A dump of the local stack's database, and a grid restored from one as docs/operations.md says under "Backups"."""

import asyncio
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from deploy.local import state
from deploy.local.postgres import EmbeddedPostgres, PostgresError
from deploy.local.progress import say
from deploy.local.settings import StackSettings
from deploy.local.supervisor import StackError
from services.engine import restore as engine
from services.platform.database_access import DatabaseAccess

_DATABASE, _RESTORED = "piecework", "piecework_restored"


def dump(settings: StackSettings, path: Path) -> int:
    """Write a dump of the database; the stack goes on."""
    if not state.is_running(settings):
        raise StackError("its database is not up: `make up` starts it")
    url, variables = asyncio.run(DatabaseAccess(settings.postgres.url(_DATABASE)).for_programs())
    command = [settings.postgres.program("pg_dump"), "-Fc", f"--file={path}", f"--dbname={url}"]
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if ended.returncode != 0:
        raise StackError(f"pg_dump failed: {ended.stderr.strip()}")
    say(f"{path} has the database; objects and messages are not in it")
    return 0


def restore(settings: StackSettings, path: Path) -> int:
    """Put the database of a dump in the place of the stack's own, which is kept beside it."""
    if not path.is_file():
        raise StackError(f"{path} is not a file; `python -m deploy.local dump {path}` would make it")
    try:
        with state.lock(settings):
            state.clear_crash(settings)
            settings.logs.mkdir(parents=True, exist_ok=True)
            settings.postgres.start()
            try:
                asyncio.run(_restore(settings.postgres, path))
            finally:
                settings.postgres.stop()
    except state.AlreadyRunning:
        raise StackError("it is up: `make down` first") from None
    except (PostgresError, engine.NotRestored) as error:
        raise StackError(str(error)) from error
    say("`make up` starts it.")
    return 0


async def _restore(postgres: EmbeddedPostgres, path: Path) -> None:
    server = await asyncpg.connect(postgres.url("postgres"))
    try:
        await server.execute(f"DROP DATABASE IF EXISTS {_RESTORED}")  # of a restore that was killed
        url = await postgres.create_database(_RESTORED)
        await engine.restore(url, str(path), postgres.program("pg_restore"), say)
        await _take_its_place(server)
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {_RESTORED}")
        await server.close()


async def _take_its_place(server: asyncpg.Connection) -> None:
    kept = f"{_DATABASE}_until_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    async with server.transaction():
        if await server.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", _DATABASE):
            await server.execute(f"ALTER DATABASE {_DATABASE} RENAME TO {kept}")
            say(f"what was there is kept as the database {kept}")
        await server.execute(f"ALTER DATABASE {_RESTORED} RENAME TO {_DATABASE}")
