"""A child process to give jobs to, and a module of user code for it to run."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from services.worker.isolation.cells import Cells
from services.worker.task.packages import Runtime
from services.worker.task.warm_children import Served, WarmChildren

Run = Callable[..., Coroutine[Any, Any, dict[str, Any]]]


USER_CODE = '''
import ctypes, os, signal, subprocess, sys, time, threading
from pathlib import Path

calls = 0

def count(input, output):
    """How often this process has been used."""
    global calls
    calls += 1
    return {"calls": calls, "pid": os.getpid()}

def shout(input, output, *, mark="!"):
    print("shouting")
    output.write_text(input.read_text().upper() + mark)
    return {"chars": len(input.read_text())}

def fail(input, output):
    print("before")
    raise ValueError("bad carrier 'X9'")

class Unusable(ValueError):
    input_invalid = True

def refuse(input, output):
    raise Unusable("an image, not a video")

def segfault(input, output):
    print("last words")
    ctypes.string_at(0)

def exit_at_once(input, output, *, code=3):
    os._exit(code)

def leave(input, output, *, code=0):
    sys.exit(code)

def shoot(input, output, *, number=9):
    os.kill(os.getpid(), number)

def hang(input, output, *, marker):
    subprocess.Popen(["sh", "-c", f"echo $$ > {marker}; exec sleep 1000"], start_new_session=True)
    while True:
        time.sleep(1)

def eat(input, output, *, megabytes):
    held = bytearray(megabytes << 20)
    for position in range(0, len(held), 4096):
        held[position] = 1
    time.sleep(30 if megabytes > 200 else 0)
    return {"megabytes": len(held) >> 20}

def eat_and_go_on(input, output, *, megabytes):
    eat(input, output, megabytes=megabytes)

def print_in_c(input, output):
    ctypes.CDLL(None).puts(b"from C")
    os.write(2, b"from the descriptor\\n")

def print_from_a_program(input, output):
    subprocess.run(["echo", "from a program"], check=True)

def close_everything(input, output):
    os.closerange(0, 5_000)
    time.sleep(1000)

def close_streams(input, output):
    sys.stdout.close()
    sys.stderr = None

def environment(input, output):
    return {name: value for name, value in os.environ.items() if name.startswith("PIECEWORK")}

def give(input, output, *, value):
    return value

def give_unserialisable(input, output):
    return {"file": sys.stdout}

def give_nan(input, output):
    return {"mean": float("nan")}

def give_number(input, output):
    return 7

def modules(input, output):
    import services
    return {"mine": services.MINE, "cwd": os.getcwd(), "stdin": os.read(0, 10).decode(), "path": sys.path[:2]}

def spawn(input, output):
    import multiprocessing
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return {"squares": pool.map(square, [1, 2, 3])}

def square(number):
    return number * number

def leave_a_program(input, output):
    return {"pid": subprocess.Popen(["sleep", "1000"], start_new_session=True).pid}

def do(input, output, *, code):
    """Run the code in this function, and say in which process."""
    exec(code, {"input": input, "output": output})
    return {"pid": os.getpid()}

def find(input, output, *, code):
    """What the code calls `found`."""
    names = {}
    exec(code, names)
    return {"pid": os.getpid(), "found": repr(names["found"])}

def fill_the_disk(input, output):
    with open("/dev/full", "w") as file:
        file.write("x")

not_callable = 5
'''


@pytest.fixture
def user_code(tmp_path: Path) -> Path:
    """A directory with the module `user_code` and a package that happens to be named like ours."""
    directory = tmp_path / "code"
    (directory / "services").mkdir(parents=True)
    (directory / "services" / "__init__.py").write_text("MINE = True")
    (directory / "user_code.py").write_text(USER_CODE)
    return directory


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[WarmChildren]:
    child = WarmChildren(Cells("process", tmp_path))
    yield child
    await child.close()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "input").write_text("some input")
    return directory


@pytest.fixture
def run(child: WarmChildren, work: Path, user_code: Path) -> Run:
    """Have the child do a job, by default in the directory `work` with its files `input`, `output` and `log`."""

    async def run(
        kind: str, *, processor: tuple[str, int] = ("p", 1), memory_bytes_max: int | None = None, **job: Any
    ) -> dict[str, Any]:
        base: dict[str, Any] = {
            "kind": kind,
            "directory": str(work),
            "environment": {"PATH": os.environ["PATH"], "PIECEWORK_TASK_INDEX": "7"},
            "log": str(work / "log"),
            "input": str(work / "input"),
            "output": str(work / "output"),
            "steps": [],
            "checks": [],
            "params": {},
            "paths": {},
            "items": None,
            "records": str(work / "records.json"),
        }
        runtime = Runtime(sys.executable, {**os.environ, "PYTHONPATH": str(user_code)})
        return await child.run(Served(None, *processor), runtime, base | job, memory_bytes_max, {})

    return run
