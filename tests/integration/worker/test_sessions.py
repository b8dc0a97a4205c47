"""Many tasks of one stage run in one child, one after another: what one of them does costs itself alone."""

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker.conftest import InProcessGrid
from tests.integration.worker.test_functions import items
from tests.integration.worker.test_tasks import left_in
from tests.invariants import assert_invariants
from tests.until import until

CODE = """
import ctypes, os, random, signal, subprocess, sys, threading, time

def work(item):
    kind, number = item
    if kind != "good":
        print(f"{kind} {number}", flush=True)
        value = KINDS[kind]()
        return value if value is not None else "done"
    assert os.listdir(".") == [], os.listdir(".")
    assert os.getcwd() == os.environ["SLURM_SUBMIT_DIR"]
    assert os.listdir(os.environ["TMPDIR"]) == []
    assert "LEFT" not in os.environ
    assert threading.active_count() == 1
    assert os.umask(0o22) != 0o123
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert sys.stdout.writable() and sys.stderr.writable()
    os.fstat(2)
    return [os.environ["PIECEWORK_TASK_INDEX"], os.getpid()]

def eat():
    held = bytearray(250 << 20)
    for position in range(0, len(held), 4096):
        held[position] = 1
    time.sleep(60)

def leave_files():
    open("left", "w").close()
    open(os.environ["TMPDIR"] + "/left", "w").close()

def leave_process():
    subprocess.Popen(["sleep", "1000"], start_new_session=True)

def turn_elsewhere():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

def fail():
    raise ValueError("no price")

def print_everywhere():
    subprocess.run(["echo", "from a program"], check=True)
    ctypes.CDLL(None).puts(b"from C")

KINDS = {
    "segfault": lambda: ctypes.string_at(0),
    "exit at once": lambda: os._exit(3),
    "time-out": lambda: time.sleep(1000),
    "memory": eat,
    "fork that returns": lambda: os.fork() and time.sleep(1),
    "process left": leave_process,
    "thread left": lambda: threading.Thread(target=time.sleep, args=(1000,)).start(),
    "stdout closed": lambda: sys.stdout.close(),
    "stderr closed": lambda: os.close(2),
    "fd 1 elsewhere": turn_elsewhere,
    "chdir": lambda: os.chdir("/"),
    "environ": lambda: os.environ.update(LEFT="1"),
    "umask": lambda: os.umask(0o123) and None,
    "signal": lambda: signal.signal(signal.SIGUSR1, print) and None,
    "files left": leave_files,
    "sys.exit": lambda: sys.exit(3),
    "exception": fail,
    "NaN": lambda: float("nan"),
    "large value": lambda: "x" * 5000,
    "prints": print_everywhere,
}

def sleep(item, *, marker=None):
    print(f"slept {item}", flush=True)
    if marker is not None:
        open(marker, "w").close()
    time.sleep(item)
    return os.getpid()

def pid(item, *, seen):
    seen.append(item)
    assert seen == [item], "params are each task's own"
    return os.getpid()

def wait_for_the_last(item, *, marker):
    # the first waits until the last one has run
    if item == "last":
        open(marker, "w").close()
    while item == "first" and not os.path.exists(marker):
        time.sleep(0.01)
    return os.getpid()
"""
FAILURES = {
    "segfault": ("failed", "crash"),
    "exit at once": ("failed", "crash"),
    "time-out": ("timeout", "timeout"),
    "memory": ("memory", "memory"),
    "fork that returns": ("failed", "exception"),
    "sys.exit": ("failed", "exit_code"),
    "exception": ("failed", "exception"),
    "NaN": ("failed", "output_invalid"),
}
HARMLESS = (
    *("process left", "thread left", "stdout closed", "stderr closed", "fd 1 elsewhere", "chdir", "environ"),
    *("umask", "signal", "files left", "large value", "prints"),
)
# How often each is in the stage. What costs the child is rarer, so that the test takes less than a minute of CPU time.
# As often as the rest, which takes some minutes: SESSION_MISBEHAVIOURS=100.
OF_EACH = int(os.environ.get("SESSION_MISBEHAVIOURS", "0"))
COSTLY = ("segfault", "exit at once", "fork that returns", "process left", "thread left", "files left")
COUNTS = dict.fromkeys(COSTLY, 5) | {"time-out": 2, "memory": 2}


@pytest.fixture(autouse=True)
def no_task_waits_too_long(grid: InProcessGrid) -> None:
    """However long their child takes to start: nobody dispatches here what is given back."""
    grid.settings = grid.settings.model_copy(update={"bundle_seconds": 3600.0})


def mixed() -> list[Any]:
    """The misbehaving, in an order that only looks random, and a well-behaved one after each."""
    bad = [[kind, number] for kind in [*FAILURES, *HARMLESS] for number in range(OF_EACH or COUNTS.get(kind, 100))]
    random.Random(1).shuffle(bad)
    return [value for each in bad for value in (each, ["good", 0])]


@pytest.mark.timeout(3600 if OF_EACH else 120)
async def test_what_a_task_does_costs_itself_alone(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    values = mixed()
    marks = {f"{kind} {number}" for kind, number in values}
    job_id = await grid.submit({"function": "work:work"}, items(*values), timeout_seconds=8, memory_bytes=150 << 20)
    await grid.dispatch(job_id, bundle_tasks_max=100)
    async with grid.node(slots=4):
        await until(partial(grid.has_ended, job_id), 3600)
    tasks, attempts = await grid.tasks(job_id), {each["index"]: each for each in await grid.attempts(job_id)}
    assert len(attempts) == len(tasks) == len(values), "each has one attempt"
    for (kind, number), task in zip(values, tasks, strict=True):
        attempt = attempts[task["index"]]
        error = (attempt["error"] or {}).get("type")
        assert (attempt["outcome"], error) == FAILURES.get(kind, ("succeeded", None)), (kind, attempt["error"])
        if kind == "good":
            assert task["output"]["value"][0] == str(task["index"])
            assert attempt["log"] is None
            continue
        printed = (await grid.get(attempt["log"])).decode()
        assert marks & set(printed.splitlines()) == {f"{kind} {number}"}, printed
        if kind == "prints":
            assert "from a program\n" in printed and "from C\n" in printed
        elif kind == "large value":
            assert task["output"]["bytes"] == 5002
        elif kind == "time-out":
            assert attempt["run_seconds"] < 30
        elif kind == "memory":
            assert attempt["memory_bytes_peak"] > 150 << 20
    await assert_invariants(grid.database, job_id)


async def test_tasks_share_a_child_and_a_log_that_nobody_sees(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    job_id = await grid.submit({"function": "work:pid"}, items(*range(300)), params={"seen": []})
    tasks = await grid.run(job_id, bundle_tasks_max=100)
    assert len({task["output"]["value"] for task in tasks}) <= 2, "one for each slot"
    assert await grid.keys() == []
    assert left_in(grid.settings.scratch) == ["lock"], "private directories are removed"


@pytest.mark.usefixtures("tells_outside")
async def test_an_idle_slot_takes_what_waits_behind_a_slow_task(
    grid: InProcessGrid, code: Path, tmp_path: Path
) -> None:
    (code / "work.py").write_text(CODE)
    values = [*["before"] * 100, "first", *["behind"] * 8, "last"]
    params = {"marker": str(tmp_path / "marker")}
    job_id = await grid.submit({"function": "work:wait_for_the_last"}, items(*values), params=params)
    tasks = await grid.run(job_id, bundle_tasks_max=200)
    assert tasks[-1]["output"]["value"] != tasks[100]["output"]["value"]
    assert {each["outcome"] for each in await grid.attempts(job_id)} == {"succeeded"}


@pytest.mark.usefixtures("tells_outside")
async def test_a_cancelled_job_ends_its_tasks_and_no_others(grid: InProcessGrid, code: Path, tmp_path: Path) -> None:
    """Bundles that are gone from the database are killed by the next heartbeat."""
    (code / "work.py").write_text(CODE)
    marker = tmp_path / "marker"
    gone = await grid.submit({"function": "work:sleep"}, items(600, 600, 0.01, 0.01), params={"marker": str(marker)})
    kept = await grid.submit({"function": "work:sleep"}, items(*[0.01] * 20))
    await grid.dispatch(gone, bundle_tasks_max=4)
    async with grid.node(slots=1):
        await until(marker.exists)
        await grid.dispatch(kept, bundle_tasks_max=10)
        await grid.database.execute("DELETE FROM bundles WHERE job_id = $1", gone)
        await grid.ended(kept)
    assert {task["state"] for task in await grid.tasks(kept)} == {"succeeded"}
    assert await grid.attempts(gone) == []


@pytest.mark.usefixtures("tells_outside")
async def test_a_draining_node_gives_back_what_has_not_begun(grid: InProcessGrid, code: Path, tmp_path: Path) -> None:
    (code / "work.py").write_text(CODE)
    marker = tmp_path / "marker"
    job_id = await grid.submit({"function": "work:sleep"}, items(*[2] * 8), params={"marker": str(marker)})
    await grid.dispatch(job_id, bundle_tasks_max=8)
    async with grid.node(slots=1):
        await until(marker.exists)
    outcomes = [each["outcome"] for each in await grid.attempts(job_id)]
    assert sorted(outcomes) == ["released"] * 7 + ["succeeded"]
    await assert_invariants(grid.database, job_id)


async def test_the_log_of_a_killed_task_is_its_own(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    job_id = await grid.submit({"function": "work:sleep"}, items(0.01, 0.02, 1000), timeout_seconds=5)
    tasks = await grid.run(job_id, bundle_tasks_max=3)
    logs = [await grid.get(each["log"]) for each in await grid.attempts(job_id)]
    assert logs == [b"slept 0.01\n", b"slept 0.02\n", b"slept 1000\n"]
    assert [task["state"] for task in tasks] == ["succeeded", "succeeded", "failed"]


async def test_secrets_are_masked_in_values_errors_and_logs(grid: InProcessGrid, code: Path, tmp_path: Path) -> None:
    (code / "work.py").write_text(
        "import os\n"
        "def tell(item):\n"
        "    print('log', os.environ['TOKEN'])\n"
        "    if item:\n        raise ValueError(os.environ['TOKEN'])\n"
        "    return {'told': os.environ['TOKEN']}\n"
    )
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("s3cr3t-value")
    grid.settings = grid.settings.model_copy(update={"secrets": str(tmp_path / "secrets")})
    processor: dict[str, Any] = {"function": "work:tell", "secrets": {"TOKEN": "file:token"}}
    job_id = await grid.submit(processor, items(0, 1))
    tasks = await grid.run(job_id, bundle_tasks_max=2)
    assert tasks[0]["output"] == {"value": {"told": "***"}}
    assert tasks[1]["error"]["message"] == "ValueError: ***"
    for each in await grid.attempts(job_id):
        assert b"s3cr3t" not in await grid.get(each["log"])


async def test_variables_tell_each_task_its_own_place(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(
        "import os\nNAMES = ('PIECEWORK_TASK_INDEX', 'SLURM_ARRAY_TASK_ID', 'PBS_ARRAY_INDEX', 'SGE_TASK_ID', 'MINE')\n"
        "def tell(item):\n    return [os.environ[name] for name in NAMES]\n"
    )
    processor = {"function": "work:tell", "environment": {"MINE": "7", "SGE_TASK_ID": "fixed"}}
    job_id = await grid.submit(processor, [{"type": "index", "count": 5}] * 5)
    tasks = await grid.run(job_id, bundle_tasks_max=5)
    assert [task["output"]["value"] for task in tasks] == [
        [str(index), str(index), str(index), "fixed", "7"] for index in range(5)
    ]
