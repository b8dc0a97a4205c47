"""Make a database that was restored from a dump fit for the services: `python -m services.engine.restore [DUMP]`.

The dump may be of any moment, of another server, and older than what S3 and SQS hold now. With DUMP (of `pg_dump -Fc`),
the command first restores it into the empty database. It migrates, gives back whatever was queued or running, and makes
the numbers of attempts go on beyond those that were used since. It changes all or nothing, and can be run again.
"""

import argparse
import asyncio
import os
import subprocess
from functools import partial

from services.engine import transitions
from services.engine.migrate import Say, migrate
from services.platform.database import Connection, connect_alone
from services.platform.database_access import DatabaseAccess, NotLetIn, Place, access
from services.platform.settings import Settings, read_settings

_OTHERS = """
    SELECT DISTINCT coalesce(nullif(application_name, ''), usename) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY 1"""

_IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace)"

_NO_LIMIT = {"lock_timeout": "0", "statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}


class NotRestored(Exception):
    """Nothing was changed; the message says why, and what to do."""


async def restore(place: Place, dump: str | None = None, program: str = "pg_restore", say: Say = print) -> None:
    """Raises NotRestored; `say` gets a line per step."""
    connection = await connect_alone(place, command_timeout=None, server_settings=_NO_LIMIT)
    try:
        if others := [row[0] for row in await connection.fetch(_OTHERS)]:
            raise NotRestored(f"others are connected to this database ({', '.join(others)}): stop all services first")
        if dump is not None:
            await _load(connection, access(place), dump, program)
            say(f"{dump} is restored")
        await migrate(place, say)
        async with connection.transaction():
            released = await transitions.release_all(connection)
            await connection.execute("SELECT restore_grid()")
        say(f"{released} attempts were running, and run again; start the services")
    finally:
        await connection.close()


async def _load(connection: Connection, way: DatabaseAccess, dump: str, program: str) -> None:
    if not await connection.fetchval(_IS_EMPTY):
        raise NotRestored("this database is not empty: create another one, and set PIECEWORK_DATABASE_URL to it")
    # Users and their rights are the server's own: the migration gives them.
    options = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    url, variables = await way.for_programs()
    command, environment = [program, *options, f"--dbname={url}", dump], os.environ | variables
    try:
        ended = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise NotRestored(f"{program} can't be run ({error}): name another with --pg-restore") from error
    if ended.returncode:
        raise NotRestored(f"{program} failed: {ended.stderr.strip()}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m services.engine.restore", description=__doc__)
    parser.add_argument("dump", nargs="?", help="made by pg_dump -Fc; left out: the database is restored already")
    parser.add_argument("--pg-restore", default="pg_restore", metavar="PROGRAM", help="as new as the server")
    arguments = parser.parse_args()
    settings = read_settings(Settings)
    try:
        asyncio.run(restore(settings, arguments.dump, arguments.pg_restore, partial(print, flush=True)))
    except (NotRestored, NotLetIn) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
