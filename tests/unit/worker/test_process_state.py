"""What a task changes in its process is put back: all these tests are one process's tasks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.worker.isolation.cells import Cells
from services.worker.task.warm_children import WarmChildren
from tests.unit.worker.conftest import Run

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
    "import hooks": ("import sys; found = sys.meta_path", "import sys; sys.meta_path.clear()"),
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


@pytest.fixture(scope="module")
async def child(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WarmChildren]:
    child = WarmChildren(Cells("process", tmp_path_factory.mktemp("children")))
    yield child
    await child.close()


@pytest.mark.parametrize("what", RESTORED)
async def test_a_setting_is_as_it_was(run: Run, work: Path, what: str) -> None:
    finding, changing = RESTORED[what]
    before = await run("callable", function="user_code:find", params={"code": finding})
    changed = await run("callable", function="user_code:do", params={"code": changing})
    after = await run("callable", function="user_code:find", params={"code": finding}, log=str(work / "after"))
    assert "error" not in changed
    assert after == {**after, "value": before["value"]}, "the process is the same, and so is what is found"
    assert changed["value"]["pid"] == after["value"]["pid"]
