"""PgBouncer as Debian 13 has it: unpacked beside the system, with the libraries that it needs, whatever runs here."""

import os
import subprocess
from pathlib import Path
from typing import Any

from deploy.images.debian import unpack_newer
from tests.conftest import free_port

_PACKAGES = (
    *("pgbouncer", "libc6", "libcares2", "libevent-2.1-7t64", "libpam0g", "libssl3t64", "libsystemd0", "libaudit1"),
    *("libcap-ng0", "libcap2", "libgcc-s1", "libzstd1", "libcrypt1"),
)

_CONFIGURATION = """
[databases]
* = host={socket} port=5432
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
max_prepared_statements = 200
default_pool_size = {sessions}
logfile = {log}
"""


def unpack(directory: Path) -> list[str]:
    """Fetch the packages; the command that runs the program."""
    root = unpack_newer(directory, *_PACKAGES)
    libraries = next(root.glob("usr/lib/*-linux-gnu*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux*"), None) or next(root.glob("usr/lib*/ld-linux*"))
    return [str(loader), "--library-path", str(libraries), str(root / "usr/sbin/pgbouncer")]


class PgBouncer:
    """A pooler in front of a server's Unix socket, as the server's user, with few sessions for many clients."""

    def __init__(self, program: list[str], directory: Path, socket: str, users: dict[str, str], sessions: int) -> None:
        self.port = free_port()
        self.log = directory / "pgbouncer.log"
        users_file, self._configuration = directory / "users.txt", directory / "pgbouncer.ini"
        users_file.write_text("".join(f'"{name}" "{password}"\n' for name, password in users.items()))
        settings = {"socket": socket, "port": self.port, "users": users_file, "sessions": sessions, "log": self.log}
        self._configuration.write_text(_CONFIGURATION.format(**settings))
        self.log.touch()
        self._program = program

    def start(self, identity: dict[str, Any]) -> None:
        """As that user, since PgBouncer refuses to run as root."""
        if identity:
            for path in (self._configuration, self._configuration.with_name("users.txt"), self.log):
                os.chown(path, identity["user"], identity["group"])
        self._process = subprocess.Popen([*self._program, "-q", str(self._configuration)], **identity)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
