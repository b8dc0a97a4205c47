"""No service reaches the world past the gate of services.platform.effects: whatever opens a way out is listed here.

The children that run user code (services.worker.child) are exempt: user code's effects are not ours, and their
start, which the gate sees, is the one that counts.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WAYS_OUT = re.compile(
    r"""asyncpg\.(.*\.)?(connect|create_pool) | services\.platform\.metrics\.MeasuredPool
    | psycopg.* | sqlite3.* | sqlalchemy.*\.create_(async_)?engine
    | aioboto3\..* | boto3.* | (aio)?botocore\.(session|client|endpoint|httpsession).*
    | httpx\.(?!URL|Request$|Response$).* | aiohttp\.(?!ClientError$|web(\.|$)).* | requests.*
    | urllib3.* | urllib\.request.* | http\.client.* | (aiosmtp|smtp|ftp|imap|pop|telnet)lib.* | websockets.* | xmlrpc.*
    | socket\.(socket|socketpair|create_connection|fromfd) | asyncio\.open_(unix_)?connection
    | subprocess.* | asyncio\.subprocess\..* | asyncio\.create_subprocess.* | multiprocessing.* | pty.*
    | concurrent\.futures\.ProcessPoolExecutor | os\.(fork|forkpty|posix_spawn|spawn|exec|system|popen).*
    | services\.worker\.child\.commands\.run_command""",
    re.VERBOSE,
)
# Ways out of objects whose type can't be told from the text: of event loops, of connections to Postgres, of sessions.
METHODS = re.compile(
    r"""create_(unix_)?connection | create_datagram_endpoint | sock_connect | sock_sendto | connect_ex
    | subprocess_(exec|shell) | prepare | cursor | copy_(from|to)_.* | copy_records_to_table | commit""",
    re.VERBOSE,
)

# The gate's own places, and what needs none.
ALLOWED = {
    ("platform/database_access.py", "asyncpg.connect"),
    ("platform/database.py", "socket.socket"),  # that of such a connection, to set its options
    ("platform/database.py", "services.platform.metrics.MeasuredPool"),
    ("platform/systemd.py", "socket.socket"),  # to the service manager of this machine
    ("platform/probe.py", "http.client"),  # a command, no service
    ("platform/probe.py", "http.client.HTTPConnection"),
    ("platform/probe.py", "http.client.HTTPException"),
    ("platform/aws.py", "aioboto3.Session"),
    ("platform/aws.py", "aiobotocore.session.get_session"),  # that session's core, on whose events the gate listens
    ("platform/slow.py", "aiobotocore.httpsession.AIOHTTPSession"),  # the same clients' connections
    ("worker/node/imds.py", "aiohttp.ClientSession"),  # to the machine itself, which is only read
    ("worker/node/imds.py", "aiohttp.ClientTimeout"),
    ("worker/node/imds.py", "aiohttp.ClientResponse"),
    ("scheduler/outgoing.py", "httpx.AsyncClient"),
    ("scheduler/outgoing.py", "httpx.Limits"),
    ("scheduler/alerts/send.py", "aiosmtplib"),
    ("scheduler/alerts/send.py", "aiosmtplib.send"),
    ("worker/node/instance_end.py", "asyncio.create_subprocess_exec"),
    ("worker/node/instance_end.py", "asyncio.subprocess.DEVNULL"),
    ("worker/task/child_process.py", "asyncio.create_subprocess_exec"),
    ("worker/task/child_process.py", "asyncio.subprocess.Process"),
    ("worker/task/child_process.py", "asyncio.subprocess.DEVNULL"),
    ("worker/task/child_process.py", "socket.socketpair"),  # to the child
    ("worker/task/child_process.py", "asyncio.open_unix_connection"),
    ("worker/task/fork_server.py", "subprocess"),
    ("worker/task/fork_server.py", "subprocess.DEVNULL"),
    ("worker/task/fork_server.py", "subprocess.Popen"),  # of children, each of which passes the gate at its start
    ("worker/task/fork_server.py", "socket.socketpair"),
    ("worker/isolation/fork_server.py", "socket.socket"),  # to the worker
    ("worker/isolation/sandbox.py", "os.fork"),  # the launcher of such a child, which passed the gate at its start
    ("worker/isolation/sandbox.py", "os.execv"),
    ("worker/isolation/sandbox.py", "socket.socket"),  # to bring a loopback interface up
    ("worker/isolation/uids.py", "socket.socket"),  # a name that nobody connects to
    ("worker/task/engine.py", "aiohttp.ClientTimeout"),  # of the container engine's client
    ("worker/task/engine.py", "subprocess"),
    ("worker/task/engine.py", "subprocess.DEVNULL"),
    ("worker/task/engine.py", "subprocess.PIPE"),
    ("worker/task/engine.py", "subprocess.Popen"),  # the guard, which only removes what a dead worker has left
    ("worker/task/engine_guard.py", "http.client"),
    ("worker/task/engine_guard.py", "http.client.HTTPConnection"),
    ("worker/task/engine_guard.py", "socket.socket"),
    ("worker/task/processes.py", "subprocess"),
    ("worker/task/processes.py", "subprocess.run"),  # kills what a child has left
    ("api/connections.py", "sqlalchemy.ext.asyncio.create_async_engine"),  # it only reads: see `commit` above
    ("engine/migrate.py", "sqlalchemy.ext.asyncio.create_async_engine"),  # a command, no service
    ("worker/trial.py", "httpx.AsyncClient"),  # a command, no service
    ("worker/trial.py", "httpx.TransportError"),
    ("engine/restore.py", "subprocess"),  # another one, and pg_restore
    ("engine/restore.py", "subprocess.run"),
}


def modules() -> list[Path]:
    services = ROOT / "services"
    return [path for path in services.rglob("*.py") if not path.is_relative_to(services / "worker" / "child")]


def ways_out(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every way out that the source imports, names or calls."""
    nodes = list(ast.walk(ast.parse(source)))
    imported: dict[str, str] = {}  # the names that imports have made, and what they stand for
    named: list[tuple[int, str]] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                top = name.name.partition(".")[0]
                imported[name.asname or top] = name.name if name.asname else top
                named.append((node.lineno, name.name))
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                imported[name.asname or name.name] = full = f"{node.module}.{name.name}"
                named.append((node.lineno, full))
    for node in nodes:
        if isinstance(node, ast.Attribute):
            named.append((node.lineno, _full_name(node, imported)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and METHODS.fullmatch(node.func.attr):
            yield node.lineno, f".{node.func.attr}()"
    yield from ((line, name) for line, name in named if WAYS_OUT.fullmatch(name))


def _full_name(node: ast.expr, imported: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, imported)}.{node.attr}"
    return imported.get(node.id, "") if isinstance(node, ast.Name) else ""


def test_no_service_opens_a_way_out_past_the_gate() -> None:
    found = {
        (str(path.relative_to(ROOT / "services")), name): f"{path.relative_to(ROOT)}:{line} {name}"
        for path in modules()
        for line, name in ways_out(path.read_text())
    }
    assert [found[way] for way in sorted(found.keys() - ALLOWED)] == []
    assert ALLOWED - found.keys() == set(), "no longer used"


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from asyncpg import connect",
        "import asyncpg as a; a.create_pool()",
        "import aiohttp; aiohttp.ClientSession()",
        "from urllib import request",
        "def late():\n    import httpx as h\n    h.get('')",
        "import os; os.execv('', [])",
        "import asyncio as a; a.create_subprocess_shell('')",
        "loop.create_connection(None)",
        "session.commit()",
    ],
)
def test_a_way_out_is_seen_however_it_is_spelled(source: str) -> None:
    assert list(ways_out(source))


@pytest.mark.parametrize(
    "source", ["import aiohttp; aiohttp.ClientError", "import socket; socket.gethostname()", "import os; os.getpid()"]
)
def test_what_only_names_a_thing_is_not_a_way_out(source: str) -> None:
    assert not list(ways_out(source))
