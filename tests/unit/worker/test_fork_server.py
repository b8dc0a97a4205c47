"""Children that a fork server makes: each is as if its interpreter had just started, and none depends on the server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.contract.states import Isolation
from services.worker.isolation.cells import Cells
from services.worker.isolation.errors import IsolationUnusable
from services.worker.isolation.view import View
from services.worker.task import child_process
from services.worker.task.child_process import ChildProcess
from services.worker.task.fork_server import FORKING
from services.worker.task.levels import do_a_job
from tests.unit.worker.conftest import Run
from tests.until import until

pytestmark = pytest.mark.skipif(not FORKING, reason="children are started by fork servers on Linux alone")


async def found_by(run: Run, code: str, processor: str = "p") -> Any:
    """What the code calls `found`, in a child of its own for each processor."""
    answer = await run("callable", function="user_code:find", params={"code": code}, processor=(processor, 1))
    return answer["value"]["found"]


async def test_children_of_one_server_share_nothing_that_a_start_makes(run: Run) -> None:
    code = "import os, random, threading; found = (os.getpid(), random.random(), threading.get_native_id())"
    first, second = [eval(await found_by(run, code, processor)) for processor in ("first", "second")]
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert first[2] == first[0], "the C library and the kernel agree on the thread's id"


async def test_user_code_finds_an_ordinary_interpreter(run: Run, user_code: Path) -> None:
    (user_code / "sitecustomize.py").write_text("import sys\nsys.customized = True\n")
    code = """
import gc, os, sys
ours = [name for name, module in sys.modules.items() if "/services/worker/" in str(getattr(module, "__file__", ""))]
found = [sys.customized, sys.path[0], sys.argv, ours, os.environ.get("PIECEWORK_CHILD"), sys.dont_write_bytecode,
    sorted(os.listdir("/proc/self/fd"), key=int)[:3], os.getpgid(0) == os.getsid(0) == os.getpid()]
"""
    found, writes_none = eval(await found_by(run, code)), bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    assert found == [True, str(user_code), [""], [], None, writes_none, ["0", "1", "2"], True]


SEEN = """
import json, site, sys, sysconfig
print(json.dumps([sys.prefix, sys.exec_prefix, sys.base_prefix, sys.executable, sys.path, site.PREFIXES,
    sysconfig.get_paths(), sys.flags.safe_path, [finder.__module__ for finder in sys.meta_path], sys.noted]))
"""


async def test_a_virtual_environment_is_as_its_own_interpreter_finds_it(tmp_path: Path) -> None:
    work, python = tmp_path / "work", virtual_environment(tmp_path / "virtual")
    work.mkdir()
    (work / "seen.py").write_text(f"def print_it(input, output):\n    exec({SEEN!r})\n")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(work)}
    expected = printed_by(
        python, f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n{SEEN}", environment
    )

    child = await ChildProcess.start(Cells("process", work), environment, python)
    files = {name: str(work / name) for name in ("log", "input", "output")}
    nothing: dict[str, Any] = {"params": {}, "paths": {}, "steps": [], "checks": [], "items": None}
    job: Any = {"kind": "callable", "function": "seen:print_it", "directory": str(work), "environment": environment}
    await child.run(job | nothing | files)
    await child.kill()

    assert json.loads((work / "log").read_text()) == json.loads(expected)
    assert str(tmp_path / "virtual") in json.loads(expected)


def virtual_environment(place: Path) -> str:
    """A new one, which runs code when its interpreter starts; returns the interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (packages,) = place.glob("lib/python3.*/site-packages")
    (packages / "noted.pth").write_text(f"{place}\nimport sys; sys.noted = 'by a .pth file'\n")
    return str(place / "bin" / "python")


def printed_by(python: str, code: str, environment: dict[str, str]) -> str:
    command = [python, "-P", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout


async def test_a_child_outlives_its_server_and_the_next_one_gets_a_new_server(run: Run) -> None:
    first = await found_by(run, "import os; found = os.getpid()")
    for server in fork_servers():
        server.kill()
        server.wait()
    assert await found_by(run, "import os; found = os.getpid()") == first
    assert await found_by(run, "import os; found = os.getpid()", "another") != first
    assert len(fork_servers()) == 1


async def test_a_copy_that_left_the_child_is_known_by_its_mark(tmp_path: Path, run: Run) -> None:
    """It has replaced neither its program nor its variables, but its session and its parent."""
    code = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(tmp_path / "pid")!r}, "w").write(f"{{os.getpid()}}.")
        time.sleep(1000)
    os._exit(0)
os.wait()
while True: time.sleep(1)
"""
    running = asyncio.create_task(run("callable", function="user_code:do", params={"code": code}))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("."))
    copy = psutil.Process(int((tmp_path / "pid").read_text().strip(".")))
    running.cancel()
    await asyncio.wait({running})
    await until(lambda: not copy.is_running() or copy.status() == psutil.STATUS_ZOMBIE)


async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    cells, environment = Cells("process", tmp_path), dict(os.environ)
    await (await ChildProcess.start(cells, environment)).kill()  # the server runs
    before = children()
    for steps in range(12):
        starting = asyncio.create_task(ChildProcess.start(cells, environment))
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait({starting})
        if not starting.cancelled():
            await starting.result().kill()
    assert children() == before
    assert cells_in(tmp_path) == []


@pytest.mark.parametrize("isolation", ["process", "sandbox"])
async def test_without_fork_servers_each_child_starts_by_itself(
    isolation: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, and on kernels that do not tell the address of a thread's id."""
    monkeypatch.setattr(child_process, "FORKING", False)
    try:
        await do_a_job(Cells(isolation, tmp_path), {"PATH": os.environ["PATH"]}, View())
    except IsolationUnusable as error:
        pytest.skip(str(error))


async def test_signals_that_the_worker_handles_have_their_default_in_a_child(run: Run) -> None:
    code = "import signal; found = [int(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)]"
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert eval(await found_by(run, code)) == [signal.SIG_DFL] * 3
    finally:
        signal.signal(signal.SIGUSR1, before)


def fork_servers() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [process for process in found if "isolation.fork_server" in " ".join(process.cmdline()) and serves(process)]


def serves(process: psutil.Process) -> bool:
    """A child has the same command line, and a mark of its own."""
    return process.environ().get("PIECEWORK_CHILD") == "c-xxxxxxxx"


def cells_in(scratch: Path) -> list[Path]:
    return list(scratch.iterdir())


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}
