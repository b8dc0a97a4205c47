"""What ends with its task and costs the process; what stays for the next one, and what each has of its own."""

import os
from pathlib import Path

import pytest

from services.worker.task.warm_children import WarmChildren
from tests.unit.worker.conftest import Run

MODULE = """
import decimal, logging, os, random, signal, sys, tempfile, threading, time, warnings

os.environ["THREADS"] = "1"
decimal.getcontext().prec = 7
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
random.seed(42)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
sys.setrecursionlimit(2000)
sys.path.append("/vendored")
warnings.simplefilter("error")
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
files = tempfile.TemporaryDirectory()

def found(input, output):
    logging.debug("once")
    number = random.random()
    random.seed(1)
    return {
        "environment": os.environ["THREADS"],
        "decimal": decimal.getcontext().prec,
        "random": number,
        "signal": signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN,
        "recursion": sys.getrecursionlimit(),
        "path": sys.path[-1],
        "warnings": warnings.filters[0][0],
        "files": os.path.isdir(files.name),
        "tmp": tempfile.gettempdir(),
        "pid": os.getpid(),
    }
"""

REPLACED = {
    "thread": "import threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
    "low-level thread": "import _thread, time; begun = _thread.allocate_lock(); begun.acquire()\n"
    "_thread.start_new_thread(lambda begun, time: (begun.release(), time.sleep(100)), (begun, time)); begun.acquire()",
    "program": "import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True)",
    "file": "import builtins, sys; sys.kept = open(output, 'w')",
    "removed file": "import os, sys; sys.kept = open('x', 'w'); os.unlink('x')",
    "exit handler": "import atexit; atexit.register(print)",
    "broken module": "import signal; signal.setitimer = None",
    "user": "import os; os.setresuid(65534, 65534, 0)",
    "half of all descriptors": "import os, resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    "for _ in range(40): os.dup(0)",
}


@pytest.mark.parametrize("what", REPLACED)
async def test_what_can_not_be_put_back_costs_the_process(run: Run, what: str) -> None:
    changed = await run("callable", function="user_code:do", params={"code": REPLACED[what]})
    after = await run("callable", function="user_code:do", params={"code": ""})
    again = await run("callable", function="user_code:do", params={"code": ""})
    assert "error" not in changed
    assert changed["value"]["pid"] != after["value"]["pid"] == again["value"]["pid"]


async def test_a_log_names_threads_that_were_not_waited_for(run: Run, work: Path) -> None:
    code = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(100,), name='writer').start()\n"
        "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"
    )
    await run("callable", function="user_code:do", params={"code": code})
    assert (work / "log").read_text() == "piecework: the function has ended without waiting for its threads: writer\n"


async def test_what_a_module_sets_up_when_it_is_imported_holds_for_all_tasks(
    run: Run, work: Path, user_code: Path
) -> None:
    (user_code / "setting_up.py").write_text(MODULE)
    answers = []
    for name in ("one", "two"):
        (work / name).mkdir()
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(work / name)}
        log = str(work / name / "log")
        answers.append(await run("callable", function="setting_up:found", environment=environment, log=log))
        assert answers[-1]["value"].pop("tmp") == str(work / name), "each task has temporary files of its own"
        assert (work / name / "log").read_text() == "once\n"
    assert answers[0]["value"] == answers[1]["value"]
    assert answers[0]["value"] == {
        "environment": "1",
        "decimal": 7,
        "random": 0.6394267984578837,
        "signal": True,
        "recursion": 2000,
        "path": "/vendored",
        "warnings": "error",
        "files": True,
        "pid": answers[0]["value"]["pid"],
    }


async def test_random_numbers_differ_from_task_to_task(run: Run) -> None:
    code = "import random; found = random.random(); random.seed(1)"
    values = [(await run("callable", function="user_code:find", params={"code": code}))["value"] for _ in range(3)]
    assert len({value["found"] for value in values}) == 3
    assert "0.13436424411240122" not in {value["found"] for value in values}, "the first after seed(1)"
    assert len({value["pid"] for value in values}) == 1


async def test_an_import_that_failed_halfway_costs_the_process(run: Run, user_code: Path) -> None:
    (user_code / "halfway.py").write_text("import os\nos.umask(0o777)\nraise ValueError")
    assert (await run("callable", function="halfway:f"))["error"]["type"] == "processor_load"
    (user_code / "halfway.py").write_text("import os\ndef f(input, output): return {'umask': os.umask(0)}")
    assert (await run("callable", function="halfway:f"))["value"]["umask"] != 0o777


async def test_what_a_late_import_needs_is_kept(run: Run, user_code: Path) -> None:
    """Such as the importer that `six` adds when a function imports it."""
    (user_code / "adds.py").write_text("import sys\nsys.meta_path.append('an importer')\n")
    code = "import adds, sys; found = sys.meta_path[-1]"
    values = [(await run("callable", function="user_code:find", params={"code": code}))["value"] for _ in range(2)]
    assert values[0]["found"] == "'an importer'"
    assert values[0] == values[1]


async def test_a_failure_with_an_open_file_does_not_cost_the_process(run: Run) -> None:
    code = "file = open(output, 'w'); raise ValueError"
    first = await run("callable", function="user_code:count")
    assert (await run("callable", function="user_code:do", params={"code": code}))["error"]["type"] == "exception"
    assert (await run("callable", function="user_code:count"))["value"]["pid"] == first["value"]["pid"]


async def test_connections_are_kept_for_the_next_task(run: Run) -> None:
    keep = "import socket, sys; sys.kept = socket.socketpair()"
    use = "import sys; a, b = sys.kept; a.send(b'x'); found = b.recv(1)"
    await run("callable", function="user_code:do", params={"code": keep})
    assert (await run("callable", function="user_code:find", params={"code": use}))["value"]["found"] == "b'x'"


EXITS = """
import atexit, os, sys

def cleans_up(input, output, *, fails=False):
    atexit.register(print, "first")
    atexit.register(os._exit, 3)
    atexit.unregister(os._exit)
    @atexit.register
    def write():
        output.write_text("written at exit")
        raise OSError("too late")
    if fails:
        sys.exit(4)

def imports(input, output):
    import registers
    return {"pid": os.getpid()}
"""


@pytest.mark.parametrize("fails", [False, True])
async def test_exit_handlers_are_called_when_their_task_ends(
    run: Run, work: Path, user_code: Path, fails: bool
) -> None:
    (user_code / "exits.py").write_text(EXITS)
    answer = await run("callable", function="exits:cleans_up", params={"fails": fails})
    assert (answer.get("exit_code") == 4) == fails
    assert (work / "output").read_text() == "written at exit"
    log = (work / "log").read_text()
    assert log.startswith("Traceback")
    assert log.endswith("OSError: too late\nfirst\n")


async def test_exit_handlers_of_modules_are_left_to_them(run: Run, user_code: Path) -> None:
    (user_code / "exits.py").write_text(EXITS)
    (user_code / "registers.py").write_text("import atexit\natexit.register(print, 'never')\n")
    first, second = [await run("callable", function="exits:imports") for _ in range(2)]
    assert first["value"] == second["value"]


async def test_a_time_zone_in_the_environment_counts(run: Run) -> None:
    code = "import time; found = time.strftime('%Z')"
    for zone, name in (("AAA-9", "AAA"), ("BBB3", "BBB")):
        environment = {"PATH": os.environ["PATH"], "TZ": zone}
        answer = await run("callable", function="user_code:find", params={"code": code}, environment=environment)
        assert answer["value"]["found"] == repr(name)


async def test_a_child_without_a_job_ends_after_a_while(run: Run, child: WarmChildren) -> None:
    def kept(pid: int) -> bool:
        return Path(f"/proc/{pid}").exists()

    pid = (await run("callable", function="user_code:do", params={"code": ""}))["value"]["pid"]
    await child.end_idle(60.0)
    assert kept(pid)
    await child.end_idle(0.0)
    assert not kept(pid)
    assert (await run("callable", function="user_code:do", params={"code": ""}))["value"]["pid"] != pid


async def test_many_processors_that_take_turns_keep_a_child_each(run: Run) -> None:
    async def pids() -> list[int]:
        runs = [
            await run("callable", function="user_code:do", params={"code": ""}, processor=(f"p{n}", 1))
            for n in range(9)
        ]
        return [done["value"]["pid"] for done in runs]

    assert await pids() == await pids()
