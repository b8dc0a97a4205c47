"""What machines of the tests find around them: AWS's emulator, and in their own names ECR, RDS and its certificates.

All listen on the bridge of a network of their own, and have certificates of the tests' authority.
"""

import asyncio
import crypt
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import yaml

from deploy.images.engine import Engine
from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.postgres import EmbeddedPostgres
from tests.aws.conftest import WholeMinistack
from tests.certificates import Authority
from tests.conftest import free_port, running
from tests.images.metadata import ROLE
from tests.images.rds import PORT, Rds
from tests.images.test_registry import wait_for

REGION = AWS_ENVIRONMENT["AWS_DEFAULT_REGION"]
REGISTRY = f"000000000000.dkr.ecr.{REGION}.amazonaws.com"

_USER, _PASSWORD = "AWS", "ministack-auth-token"  # what the emulator lets everybody log in to ECR with
_CERTIFICATES = "truststore.pki.rds.amazonaws.com"
# What a new instance of RDS has: the role of those who log in with tokens, and the owner, who is not a superuser.
_AS_RDS = (
    "SELECT pg_reload_conf()",
    "CREATE ROLE rds_iam NOLOGIN",
    "CREATE ROLE piecework_owner LOGIN CREATEROLE CREATEDB",
    "GRANT rds_iam TO piecework_owner WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
    "CREATE DATABASE piecework OWNER piecework_owner",
)


class Reachable(WholeMinistack):
    """The emulator at an address that machines reach."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(port)
        self.url = f"http://{address}:{port}"
        self.environment |= {"BIND_HOST": address, "MINISTACK_HOST": address}


@dataclass(frozen=True)
class Cloud:
    """`prefix` is what the network's addresses begin with, `names` those of what machines reach by name."""

    engine: Engine
    network: str
    prefix: str
    emulator: Emulator
    names: dict[str, str]
    authority: Authority
    rds: Rds
    pushing: str  # the registry, for this machine

    def name_database(self, place: str) -> None:
        """What the database's place is called, since its stack is there."""
        self.rds.answer_as(place, self.authority)
        self.names[place.partition(":")[0]] = f"{self.prefix}.1"

    def push(self, image: str, name: str) -> str:
        """Put an image into ECR; returns what machines call it."""
        here = f"{self.pushing}/{name}"
        self.engine.docker("tag", image, here)
        try:
            self.engine.docker("push", "--quiet", here)
        finally:
            self.engine.docker("rmi", here)
        return f"{REGISTRY}/{name}"


@contextmanager
def cloud(engine: Engine, directory: Path) -> Iterator[Cloud]:
    """All of it, for the time of the context; files are in the directory."""
    authority = Authority(directory / "authority.crt")
    with ExitStack() as stack:
        network, prefix = stack.enter_context(_network(engine))
        gateway, ecr = f"{prefix}.1", f"{prefix}.2"
        pushing = stack.enter_context(_registry(directory, authority, ecr))
        stack.enter_context(_certificates(authority, gateway))
        rds = stack.enter_context(_rds(gateway))
        emulator = stack.enter_context(contextmanager(running)(Reachable(gateway, free_port())))
        names = {REGISTRY: ecr, _CERTIFICATES: gateway}
        yield Cloud(engine, network, prefix, emulator, names, authority, rds, pushing)


@contextmanager
def _network(engine: Engine) -> Iterator[tuple[str, str]]:
    """A network's name, and what its addresses begin with. This machine is .1 and .2 there."""
    name, prefix = f"piecework-{os.getpid()}", f"10.213.{os.getpid() % 256}"
    bridge = f"pw{os.getpid()}"
    engine.docker(
        *("network", "create", "--subnet", f"{prefix}.0/24", "--gateway", f"{prefix}.1"),
        *("--opt", f"com.docker.network.bridge.name={bridge}", name),
    )
    try:
        subprocess.run(["ip", "address", "add", f"{prefix}.2/24", "dev", bridge], check=True)
        yield name, prefix
    finally:
        engine.docker("network", "rm", name)


@contextmanager
def _registry(directory: Path, authority: Authority, address: str) -> Iterator[str]:
    """ECR: what is pushed here, without TLS or password, is pulled there with both; returns where to push."""
    authority.server(REGISTRY)
    certificate = str(authority.path.with_name(f"{authority.path.stem}-{REGISTRY}.pem"))
    hashed = crypt.crypt(_PASSWORD, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))
    (directory / "htpasswd").write_text(f"{_USER}:{hashed}\n")
    pushing = f"127.0.0.1:{free_port()}"
    common = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}},
    }
    auth = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    tls = {"certificate": certificate, "key": certificate}
    started = []
    try:
        for name, http in (("push", {"addr": pushing}), ("pull", {"addr": f"{address}:443", "tls": tls})):
            file = directory / f"{name}.yml"
            file.write_text(yaml.safe_dump(common | {"http": http} | ({"auth": auth} if name == "pull" else {})))
            started.append(subprocess.Popen(["docker-registry", "serve", file]))
            wait_for(http["addr"])
        yield pushing
    finally:
        for process in started:
            process.terminate()
            process.wait()


@contextmanager
def _certificates(authority: Authority, address: str) -> Iterator[None]:
    """Where RDS publishes the certificates of its authorities."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/global/global-bundle.pem"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(authority.path.read_bytes() if known else b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, 443), Handler)
    server.socket = authority.server(_CERTIFICATES).wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _database() -> Iterator[str]:
    """The URL of Postgres as its superuser, with what RDS has from the start; it trusts who reaches its socket."""
    with tempfile.TemporaryDirectory(prefix="piecework-test-", ignore_cleanup_errors=True) as place:
        server = EmbeddedPostgres(Path(place) / "data")
        server.start()
        try:
            (server.data / "pg_hba.conf").write_text("local all all trust\n")
            asyncio.run(_prepare(server.url("postgres")))
            yield server.url()
        finally:
            server.stop()


async def _prepare(url: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in _AS_RDS:
        await connection.execute(statement)
    await connection.close()


@contextmanager
def _rds(address: str) -> Iterator[Rds]:
    with _database() as url:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        rds = Rds(url, ROLE)
        asyncio.run_coroutine_threadsafe(rds.start(address, PORT), loop).result()
        try:
            yield rds
        finally:
            loop.call_soon_threadsafe(rds.stop)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
