"""What a task does to its process: the next one does not meet it, and finds its imports warm where that is safe."""

import os
from pathlib import Path

import pytest

from tests.unit.worker.conftest import Run

STATE = '''
import os
loads = os.getpid()

def do(input, output, *, code):
    """Run code in the function, and say in which process."""
    exec(code, {"input": input, "output": output})
    return {"pid": os.getpid()}

def find(input, output, *, code):
    names = {}
    exec(code, names)
    return {"pid": os.getpid(), "found": repr(names["found"])}
'''

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

# What is found, by which code, and what changes it.
RESTORED = {
    "umask": ("import os; found = os.umask(0); os.umask(found)", "import os; os.umask(0o777)"),
    "file size": (
        "import resource; found = resource.getrlimit(resource.RLIMIT_FSIZE)",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))",
    ),
    "descriptors": (
        "import resource; found = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (3, r.getrlimit(r.RLIMIT_NOFILE)[1]))",
    ),
    "processor time": (
        "import resource; found = resource.getrlimit(resource.RLIMIT_CPU)",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1000, -1))",
    ),
    "working directory": ("import os; found = os.getcwd()", "import os; os.chdir('/')"),
    "environment": (
        "import os; found = sorted(os.environ.items())",
        "import os; os.environ['X'] = '1'; del os.environ['PATH']",
    ),
    "environment object": ("import os; found = type(os.environ)", "import os; os.environ = dict(os.environ)"),
    "time zone": ("import time; found = time.tzname", "import os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()"),
    "signal handler": (
        "import signal; found = [signal.getsignal(n) for n in (2, 14, 15)]",
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 14, 15)]",
    ),
    "crash handler": (
        "import faulthandler, signal; found = faulthandler.is_enabled(), signal.getsignal(11)",
        "import faulthandler, signal; faulthandler.disable(); signal.signal(11, print)",
    ),
    "signal mask": (
        "import signal; found = signal.pthread_sigmask(signal.SIG_BLOCK, ())",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {10, 12})",
    ),
    "timer": ("import signal; found = signal.getitimer(0)", "import signal; signal.setitimer(0, 1000)"),
    "alarm": ("import signal; found = signal.alarm(0)", "import signal; signal.alarm(1000)"),
    "recursion limit": ("import sys; found = sys.getrecursionlimit()", "import sys; sys.setrecursionlimit(60)"),
    "switch interval": ("import sys; found = sys.getswitchinterval()", "import sys; sys.setswitchinterval(1)"),
    "digits": ("import sys; found = sys.get_int_max_str_digits()", "import sys; sys.set_int_max_str_digits(0)"),
    "socket time-out": (
        "import socket; found = socket.getdefaulttimeout()",
        "import socket; socket.setdefaulttimeout(0.001)",
    ),
    "locale": ("import locale; found = locale.setlocale(0)", "import locale; locale.setlocale(locale.LC_ALL, 'C')"),
    "module path": ("import sys; found = sys.path", "import sys; sys.path.insert(0, '/x'); sys.path = ['/y']"),
    "arguments": ("import sys; found = sys.argv", "import sys; sys.argv.append('x')"),
    "import hooks": ("import sys; found = len(sys.meta_path)", "import sys; sys.meta_path.clear()"),
    "streams": (
        "import sys; found = sys.stdin.closed, sys.stdout.name, sys.stderr.name",
        "import io, sys; sys.stdin.close(); sys.stdout.close(); sys.stderr = io.StringIO()",
    ),
    "descriptor of standard input": ("import os; found = os.read(0, 1)", "import os; os.close(0)"),
    "hooks": (
        "import sys, threading; found = sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook",
        "import sys, threading; sys.excepthook = sys.displayhook = sys.unraisablehook = threading.excepthook = print",
    ),
    "tracing": (
        "import sys, threading; found = sys.gettrace(), sys.getprofile(), threading.gettrace()",
        "import sys, threading; f = lambda *_: None; sys.setprofile(f); sys.settrace(f); threading.settrace(f)",
    ),
    "builtins": (
        "import builtins; found = print, open, len(vars(builtins))",
        "import builtins; builtins.print = builtins.sum = builtins.extra = len; del builtins.open, builtins.zip",
    ),
    "warnings": (
        "import warnings; found = warnings.filters, warnings.showwarning",
        "import warnings; warnings.simplefilter('error'); warnings.showwarning = print",
    ),
    "warnings list": ("import warnings; found = warnings.filters", "import warnings; warnings.filters = []"),
    "decimal context": (
        "import decimal; found = decimal.getcontext()",
        "import decimal; decimal.getcontext().prec = 3",
    ),
    "another decimal context": (
        "import decimal; found = decimal.getcontext()",
        "import decimal; decimal.setcontext(decimal.Context(prec=3))",
    ),
    "garbage collection": (
        "import gc; found = gc.isenabled(), gc.get_threshold(), gc.get_debug()",
        "import gc; gc.disable(); gc.set_threshold(1); gc.set_debug(gc.DEBUG_STATS)",
    ),
    "niceness": ("import os; found = os.nice(0)", "import os; os.nice(3)"),
    "cores": ("import os; found = os.sched_getaffinity(0)", "import os; os.sched_setaffinity(0, {0})"),
    "allocations": (
        "import tracemalloc; found = tracemalloc.is_tracing()",
        "import tracemalloc; tracemalloc.start()",
    ),
    "stack size": (
        "import threading; found = threading.stack_size()",
        "import threading; threading.stack_size(1 << 20)",
    ),
    "root logger": (
        "import logging; r = logging.getLogger(); found = r.handlers, r.level, r.manager.disable",
        "import logging; logging.basicConfig(level=1); logging.disable(50)",
    ),
    "logger": (
        "import logging; found = logging.getLogger('a.b').handlers",
        "import logging; logging.getLogger('a.b').addHandler(logging.FileHandler('log'))",
    ),
    "start method": (
        "import multiprocessing; found = multiprocessing.get_start_method(allow_none=True)",
        "import multiprocessing; multiprocessing.set_start_method('spawn')",
    ),
    "event loop": (
        "import asyncio; found = type(asyncio.get_event_loop_policy()), asyncio.get_event_loop().is_closed()",
        "import asyncio\nclass P(asyncio.DefaultEventLoopPolicy): pass\nasyncio.set_event_loop_policy(P())\n"
        "loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop); loop.close()",
    ),
    "closed event loop": (
        "import asyncio; found = asyncio.get_event_loop().is_closed()",
        "import asyncio; asyncio.run(asyncio.sleep(0))",
    ),
    "temporary files": (
        "import os, tempfile; found = tempfile.gettempdir() == os.environ.get('TMPDIR', tempfile.gettempdir())",
        "import tempfile; tempfile.tempdir = '/nowhere'",
    ),
    "context variables": (
        "import builtins; found = len(__import__('contextvars').copy_context())",
        "import contextvars; contextvars.ContextVar('x').set(1)",
    ),
}

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


@pytest.fixture(autouse=True)
def module(user_code: Path) -> None:
    (user_code / "state.py").write_text(STATE)


@pytest.mark.parametrize("what", RESTORED)
async def test_a_setting_is_as_it_was(run: Run, work: Path, what: str) -> None:
    finding, changing = RESTORED[what]
    before = await run("callable", function="state:find", params={"code": finding})
    changed = await run("callable", function="state:do", params={"code": changing})
    after = await run("callable", function="state:find", params={"code": finding}, log=str(work / "after"))
    assert "error" not in changed
    assert after == {**after, "value": before["value"]}, "the process is the same, and so is what is found"
    assert changed["value"]["pid"] == after["value"]["pid"]


@pytest.mark.parametrize("what", REPLACED)
async def test_what_can_not_be_put_back_costs_the_process(run: Run, what: str) -> None:
    changed = await run("callable", function="state:do", params={"code": REPLACED[what]})
    after = await run("callable", function="state:do", params={"code": ""})
    again = await run("callable", function="state:do", params={"code": ""})
    assert "error" not in changed
    assert changed["value"]["pid"] != after["value"]["pid"] == again["value"]["pid"]


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
    values = [(await run("callable", function="state:find", params={"code": code}))["value"] for _ in range(3)]
    assert len({value["found"] for value in values}) == 3
    assert "0.13436424411240122" not in {value["found"] for value in values}, "the first after seed(1)"
    assert len({value["pid"] for value in values}) == 1


async def test_an_import_that_failed_halfway_costs_the_process(run: Run, user_code: Path) -> None:
    (user_code / "halfway.py").write_text("import os\nos.umask(0o777)\nraise ValueError")
    assert (await run("callable", function="halfway:f"))["error"]["type"] == "processor_load"
    (user_code / "halfway.py").write_text("import os\ndef f(input, output): return {'umask': os.umask(0)}")
    assert (await run("callable", function="halfway:f"))["value"]["umask"] != 0o777


async def test_connections_are_kept_for_the_next_task(run: Run) -> None:
    keep = "import socket, sys; sys.kept = socket.socketpair()"
    use = "import sys; a, b = sys.kept; a.send(b'x'); found = b.recv(1)"
    await run("callable", function="state:do", params={"code": keep})
    assert (await run("callable", function="state:find", params={"code": use}))["value"]["found"] == "b'x'"


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
        answer = await run("callable", function="state:find", params={"code": code}, environment=environment)
        assert answer["value"]["found"] == repr(name)
