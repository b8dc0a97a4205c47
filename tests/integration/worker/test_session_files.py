"""Callables in sessions: each task gets its own input, and what it does with files costs itself alone."""

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.worker.child.job import FILE_BYTES_MAX
from tests.integration.worker.conftest import InProcessGrid
from tests.integration.worker.test_functions import items
from tests.integration.worker.test_inputs import parts_of
from tests.integration.worker.test_tasks import left_in
from tests.invariants import assert_invariants
from tests.until import until

CODE = """
import ctypes, json, os, shutil, signal, subprocess, sys, threading, time

def work(input, output):
    kind, number = json.loads(input.read_text())
    if kind != "good":
        print(f"{kind} {number}", flush=True)
        return KINDS[kind](input, output)
    root = input.parent
    assert sorted(os.listdir(root)) == ["input.json", "output", "tmp", "work"], os.listdir(root)
    assert len(os.listdir(root.parent)) == 2, os.listdir(root.parent)
    assert os.listdir(".") == os.listdir(output.parent) == os.listdir(os.environ["TMPDIR"]) == []
    assert os.getcwd() == os.environ["SLURM_SUBMIT_DIR"] == str(root / "work")
    assert os.environ["PIECEWORK_INPUT"] == str(input) and os.environ["PIECEWORK_OUTPUT"] == str(output)
    assert os.environ["TMPDIR"] == os.environ["SLURM_TMPDIR"] == str(root / "tmp")
    assert "LEFT" not in os.environ and threading.active_count() == 1
    assert {os.stat(root / name).st_mode & 0o777 for name in ("work", "output", "tmp")} == {0o755}
    output.write_text(f"{number}\\n")
    return {"index": os.environ["PIECEWORK_TASK_INDEX"], "pid": os.getpid(), "input": str(input)}

def eat(input, output):
    held = bytearray(250 << 20)
    held[::4096] = b"1" * len(held[::4096])
    time.sleep(60)

def write_much(input, output):
    output.write_bytes(b"x" * LARGE)

def litter(input, output):
    (input.parent / "beside").write_text("left")
    (input.parent.parent / "above").write_text("left")
    (output.parent / "sidecar").write_text("left")
    (input.parent / "tmp" / "deep" / "deeper").mkdir(parents=True)
    os.symlink("/etc", "link")
    open("left", "w").close()
    output.write_text("littered")

def litter_much(input, output):
    for number in range(300):
        open(f"left{number}", "w").close()
    output.write_text("littered")

def hold_open(input, output):
    global held
    held = open("held", "w")

def fail(input, output):
    output.write_text("not to be kept")
    raise ValueError("no price")

def hide_output(input, output):
    output.parent.rename(output.parent.with_name("hidden"))

def write_late(input, output):
    threading.Thread(target=lambda: time.sleep(1000)).start()
    output.write_text("written")

def link_twice(input, output):
    output.write_text("two names")
    os.link(output, "second")

KINDS = {
    "segfault": lambda input, output: ctypes.string_at(0),
    "exit at once": lambda input, output: os._exit(3),
    "time-out": lambda input, output: time.sleep(1000),
    "memory": eat,
    "exception": fail,
    "sys.exit": lambda input, output: sys.exit(3),
    "not a dict": lambda input, output: 5,
    "output is a link": lambda input, output: output.symlink_to("/etc/passwd"),
    "output is a directory": lambda input, output: output.mkdir(),
    "output is a pipe": lambda input, output: os.mkfifo(output),
    "output has two names": link_twice,
    "large output": write_much,
    "empty output": lambda input, output: output.touch(),
    "no output": lambda input, output: None,
    "output may not be read": lambda input, output: (output.write_text("x"), output.chmod(0)) and None,
    "output hidden": hide_output,
    "littered": litter,
    "littered much": litter_much,
    "input removed": lambda input, output: input.unlink(),
    "input moved": lambda input, output: input.rename(output) and None,
    "input replaced": lambda input, output: (input.unlink(), input.mkdir(), (input / "x").touch()) and None,
    "mode changed": lambda input, output: os.chmod(".", 0o500),
    "directory removed": lambda input, output: shutil.rmtree(os.getcwd()),
    "held open": hold_open,
    "thread left": write_late,
    "process left": lambda input, output: subprocess.Popen(["sleep", "1000"], start_new_session=True) and None,
    "chdir": lambda input, output: os.chdir("/"),
    "environ": lambda input, output: os.environ.update(LEFT="1", TMPDIR="/", PIECEWORK_OUTPUT="/"),
    "umask": lambda input, output: os.umask(0o123) and None,
    "fd 1 elsewhere": lambda input, output: os.dup2(os.open(os.devnull, os.O_WRONLY), 1) and None,
}
""".replace("LARGE", str(FILE_BYTES_MAX + 1))
FAILURES = {
    "segfault": ("failed", "crash"),
    "exit at once": ("failed", "crash"),
    "time-out": ("timeout", "timeout"),
    "memory": ("memory", "memory"),
    "exception": ("failed", "exception"),
    "sys.exit": ("failed", "exit_code"),
    "not a dict": ("failed", "output_invalid"),
    "output is a link": ("failed", "output_invalid"),
    "output is a directory": ("failed", "output_invalid"),
    "output is a pipe": ("failed", "output_invalid"),
    "output has two names": ("failed", "output_invalid"),
}
BYTES = {
    **{"large output": FILE_BYTES_MAX + 1, "empty output": 0, "littered": 8, "littered much": 8, "thread left": 7},
    "output may not be read": 1,
}
HARMLESS = (
    *BYTES,
    *("no output", "output hidden", "input removed", "input moved", "input replaced", "mode changed"),
    *("directory removed", "held open", "process left", "chdir", "environ", "umask", "fd 1 elsewhere"),
)
# How often each is in the stage; a hundred times takes some minutes: SESSION_MISBEHAVIOURS=100.
OF_EACH = int(os.environ.get("SESSION_MISBEHAVIOURS", "0"))
COUNTS = {"time-out": 1, "memory": 1, "littered": 30, "exception": 30, "environ": 30}


@pytest.fixture(autouse=True)
def no_task_waits_too_long(grid: InProcessGrid) -> None:
    """However long their child takes to start: nobody dispatches here what is given back."""
    grid.settings = grid.settings.model_copy(update={"bundle_seconds": 3600.0})


def mixed() -> list[Any]:
    """The misbehaving, in an order that only looks random, and a well-behaved one after each."""
    bad = [[kind, number] for kind in [*FAILURES, *HARMLESS] for number in range(OF_EACH or COUNTS.get(kind, 3))]
    random.Random(1).shuffle(bad)
    return [value for number, each in enumerate(bad) for value in (each, ["good", number])]


@pytest.mark.timeout(3600 if OF_EACH else 120)
async def test_what_a_task_does_to_its_files_costs_itself_alone(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    values = mixed()
    marks = {f"{kind} {number}" for kind, number in values}
    job_id = await grid.submit({"callable": "work:work"}, items(*values), timeout_seconds=8, memory_bytes=150 << 20)
    await grid.dispatch(job_id, bundle_tasks_max=100)
    async with grid.node(slots=4):
        await until(partial(grid.has_ended, job_id), 3600)
    tasks, attempts = await grid.tasks(job_id), {each["index"]: each for each in await grid.attempts(job_id)}
    assert len(attempts) == len(tasks) == len(values), "each has one attempt"
    inputs = set()
    for (kind, number), task in zip(values, tasks, strict=True):
        attempt, output = attempts[task["index"]], task["output"]
        error = (attempt["error"] or {}).get("type")
        assert (attempt["outcome"], error) == FAILURES.get(kind, ("succeeded", None)), (kind, attempt["error"])
        assert attempt["bytes_in"] == len(json.dumps([kind, number], separators=(",", ":")))
        if kind == "good":
            assert output["value"]["index"] == str(task["index"])
            assert await grid.get(output["uri"]) == f"{number}\n".encode()
            assert attempt["log"] is None
            inputs.add(output["value"]["input"])
            continue
        assert attempt["log"] is not None, kind
        printed = (await grid.get(attempt["log"])).decode()
        assert marks & set(printed.splitlines()) == {f"{kind} {number}"}, printed
        if kind in BYTES:
            assert output["bytes"] == attempt["bytes_out"] == BYTES[kind]
        elif kind in ("no output", "output hidden"):
            assert output is None
    assert len(inputs) == len(values) / 2, "no path is used twice"
    await assert_invariants(grid.database, job_id)
    assert left_in(grid.settings.scratch) == ["lock"], "private directories are removed"


async def test_they_share_a_child(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(CODE)
    job_id = await grid.submit({"callable": "work:work"}, items(*(["good", number] for number in range(300))))
    tasks = await grid.run(job_id, bundle_tasks_max=100)
    assert len({task["output"]["value"]["pid"] for task in tasks}) <= 2, "one for each slot"


async def test_a_missing_output_fails_its_own_task_which_is_told_what_it_has_left(
    grid: InProcessGrid, code: Path
) -> None:
    (code / "work.py").write_text(
        "def run(input, output):\n"
        "    output.write_text('x') if input.read_text() == '1' else open('elsewhere.txt', 'w').close()\n"
    )
    job_id = await grid.submit({"callable": "work:run", "output_required": True}, items(1, 2, 1))
    tasks = await grid.run(job_id, bundle_tasks_max=3)
    assert [task["state"] for task in tasks] == ["succeeded", "failed", "succeeded"]
    assert tasks[1]["error"]["type"] == "output_missing"
    assert tasks[1]["error"]["message"].endswith("it left these files: elsewhere.txt")


COPY = """
import os, shutil

def run(input, output):
    shutil.copyfile(input, output)
    return {"name": input.name, "key": os.environ.get("PIECEWORK_INPUT_KEY")}
"""


async def test_objects_of_all_sizes_and_ranges_of_them_are_each_tasks_own(grid: InProcessGrid, code: Path) -> None:
    """Large ones run by themselves, among the others."""
    (code / "copy.py").write_text("")
    (code / "work.py").write_text(COPY)
    bodies = [f"{number}".encode() * (number % 7 + 1) for number in range(40)]
    bodies += [b"", b"x" * FILE_BYTES_MAX, b"y" * (FILE_BYTES_MAX + 1), b"z"]
    inputs: list[dict[str, Any]] = []
    for number, body in enumerate(bodies):
        inputs.append({"type": "object", **await grid.put(f"in/{number}.bin", body), "bytes": len(body)})
    lines = await grid.put("in/lines.csv", b"a,b\n1,2\n3,4\n")
    inputs.append({"type": "bytes", **lines, "start": 8, "end": 12, "format": "csv", "header": "a,b\n"})
    inputs.append({"type": "item", "value": {"an": "item"}})
    job_id = await grid.submit({"callable": "work:run", "output": "out.bin"}, inputs)
    tasks = await grid.run(job_id, bundle_tasks_max=100)
    expected = [*bodies, b"a,b\n3,4\n", b'{"an":"item"}']
    assert [await grid.get(task["output"]["uri"]) for task in tasks] == expected
    names = ["input.bin"] * len(bodies) + ["input.csv", "input.json"]
    assert [task["output"]["value"]["name"] for task in tasks] == names
    keys = [f"in/{number}.bin" for number in range(len(bodies))]
    assert [task["output"]["value"].get("key") for task in tasks] == [*keys, "in/lines.csv", None]
    attempts = await grid.attempts(job_id)
    assert {each["outcome"] for each in attempts} == {"succeeded"}
    assert [each["bytes_in"] for each in attempts] == [*map(len, bodies), 4, 13]
    assert all(each["fetch_seconds"] > 0 and each["put_seconds"] > 0 for each in attempts[:40])
    await assert_invariants(grid.database, job_id)


async def test_an_input_that_can_not_be_fetched_fails_its_own_task(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(COPY)
    inputs = [{"type": "object", **await grid.put(f"in/{number}", b"x"), "bytes": 1} for number in range(12)]
    inputs[3]["uri"] += "-gone"
    inputs[7]["etag"] = '"another"'
    job_id = await grid.submit({"callable": "work:run"}, inputs)
    tasks = await grid.run(job_id, bundle_tasks_max=12)
    failed = {task["index"]: task["error"]["type"] for task in tasks if task["state"] == "failed"}
    assert failed == {3: "input_missing", 7: "input_changed"}
    assert len(await grid.attempts(job_id)) == 12, "none but those is run again, and each of them once"


async def test_torn_records_are_the_inputs_fault(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(COPY)
    data = b"id,note\n" + b"".join(b'%d,"two\nlines"\n' % n for n in range(100))
    parts = await parts_of(grid, data, type="lines", format="csv", part_bytes=50)
    part = next(part for part in parts if data[: part["end"]].count(b'"') % 2)
    job_id = await grid.submit({"callable": "work:run"}, [part, {"type": "item", "value": 1}])
    torn, good = await grid.run(job_id, bundle_tasks_max=2)
    assert (torn["state"], torn["error"]["type"]) == ("failed", "records_torn")
    assert f"{part['uri']}: the record at byte " in torn["error"]["message"]
    assert good["state"] == "succeeded"


@pytest.mark.usefixtures("tells_outside")
async def test_a_draining_node_gives_back_what_has_not_begun(grid: InProcessGrid, code: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (code / "work.py").write_text(
        f"import time\ndef run(input, output):\n    open({str(marker)!r}, 'w').close()\n    time.sleep(2)\n"
    )
    inputs = [{"type": "object", **await grid.put(f"in/{number}", b"x"), "bytes": 1} for number in range(8)]
    job_id = await grid.submit({"callable": "work:run"}, inputs)
    await grid.dispatch(job_id, bundle_tasks_max=8)
    async with grid.node(slots=1):
        await until(marker.exists)
    outcomes = [each["outcome"] for each in await grid.attempts(job_id)]
    assert sorted(outcomes) == ["released"] * 7 + ["succeeded"]
    await assert_invariants(grid.database, job_id)


async def test_secrets_are_masked_in_values_errors_and_logs(grid: InProcessGrid, code: Path, tmp_path: Path) -> None:
    (code / "work.py").write_text(
        "import os\n"
        "def tell(input, output):\n"
        "    print('log', os.environ['TOKEN'])\n"
        "    if input.read_text() == '1':\n        raise ValueError(os.environ['TOKEN'])\n"
        "    return {'told': os.environ['TOKEN']}\n"
    )
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("s3cr3t-value")
    grid.settings = grid.settings.model_copy(update={"secrets": str(tmp_path / "secrets")})
    job_id = await grid.submit({"callable": "work:tell", "secrets": {"TOKEN": "file:token"}}, items(0, 1))
    tasks = await grid.run(job_id, bundle_tasks_max=2)
    assert tasks[0]["output"]["value"] == {"told": "***"}
    assert tasks[1]["error"]["message"] == "ValueError: ***"
    for each in await grid.attempts(job_id):
        assert b"s3cr3t" not in await grid.get(each["log"])


async def test_records_and_headers_are_told_as_of_a_task_alone(grid: InProcessGrid, code: Path) -> None:
    (code / "work.py").write_text(
        "def run(input, output):\n"
        "    output.write_text('a,b\\n1,2')\n"
        "    return {'records': {'records_in': 2, 'records_out': 1, 'records_filtered': 1}}\n"
    )
    job_id = await grid.submit(
        {"callable": "work:run", "output": "out.csv", "output_format": "csv", "filters": True}, items(1, 2)
    )
    tasks = await grid.run(job_id, bundle_tasks_max=2)
    attempts = await grid.attempts(job_id)
    assert [(each["records_in"], each["records_out"], each["records_filtered"]) for each in attempts] == [(2, 1, 1)] * 2
    for task in tasks:
        assert (task["output"]["header_bytes"], task["output"]["records"]) == (4, 1)
        assert task["output"]["missing_end"] == b"\n".hex()
