"""User code that forks: whatever its copies do, only the process that got the task answers for it."""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.contract.task_error import TaskError
from tests.unit.worker.conftest import Run
from tests.until import until

FORKS = '''
import ctypes, multiprocessing, os, pty, subprocess, sys, time

def work(output, pid=0):
    """What the process that got the task does: its copy is given time to do harm first."""
    if pid:
        os.waitpid(pid, 0)
    output.write_text("done")
    return {"pid": os.getpid()}

def return_in_copy(input, output):
    if (pid := os.fork()) == 0:
        return {"pid": os.getpid()}
    return work(output, pid)

def return_in_copy_of_pty(input, output):
    pid, descriptor = pty.fork()
    if pid == 0:
        return
    return work(output, pid)

def return_in_copy_made_in_c(input, output):
    if (pid := ctypes.CDLL(None).fork()) == 0:
        return
    return work(output, pid)

def complain_of_copy(input, output):
    if (pid := os.fork()) == 0:
        return
    raise ValueError(f"my child ended with {os.waitpid(pid, 0)[1]}")

def list_in_copy(input, output):
    if (pid := os.fork()) == 0:
        return [1, 2]
    os.waitpid(pid, 0)
    return [3]

def exit_in_copy(input, output, *, code=0):
    if (pid := os.fork()) == 0:
        sys.exit(code)
    return work(output, pid)

def raise_in_copy(input, output):
    if (pid := os.fork()) == 0:
        raise ValueError("in the copy")
    return work(output, pid)

def exec_in_copy(input, output):
    if (pid := os.fork()) == 0:
        os.execlp("echo", "echo", "from a program")
    return work(output, pid)

def write_in_copy(input, output):
    if (pid := os.fork()) == 0:
        write_everywhere(input, output)
        os._exit(0)
    return work(output, pid)

def write_in_program(input, output):
    script = "for d in 3 4 5 6 7 8 9; do echo garbage >&$d; done"
    subprocess.run(["bash", "-c", script], close_fds=False, stderr=subprocess.DEVNULL)
    return work(output)

def write_everywhere(input, output, *, garbage=b"garbage"):
    for descriptor in range(3, 5_000):
        try:
            os.write(descriptor, garbage)
        except OSError:
            pass
    return {"pid": os.getpid()}

def write_a_little_everywhere(input, output):
    return write_everywhere(input, output, garbage=b"x")

def leave_copy_running(input, output):
    if os.fork() == 0:
        time.sleep(0.5)
        return {"pid": os.getpid()}
    return work(output)

def leave_daemon_running(input, output):
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.5)
            sys.exit("too late")
        os._exit(0)
    return work(output, pid)

def become_daemon(input, output, *, program):
    """As daemons are made: the first process ends, the last one goes on in a session of its own."""
    if os.fork():
        while not os.path.exists(f"{output}.pid"):
            time.sleep(0.01)
        os._exit(0)
    os.setsid()
    with open(f"{output}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{output}.new", f"{output}.pid")
    if program:
        os.execlp("sleep", "sleep", "1000")
    time.sleep(1000)

def process_exits(input, output):
    process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(3,))
    process.start()
    process.join()
    return {**work(output), "code": process.exitcode}

def pool(input, output):
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return {**work(output), "squares": workers.map(square, range(4))}

def square(number):
    return number * number

def pid(input, output):
    return {"pid": os.getpid()}

def record_in_copy(record, *, leave):
    """Each record forks; its copy must not go on with the records that follow."""
    if (pid := os.fork()) == 0:
        if leave == "raise":
            raise ValueError("in the copy")
        if leave == "exit":
            sys.exit(0)
        return {"record": "of the copy"} if leave == "return" else os._exit(0)
    os.waitpid(pid, 0)
    return record
'''

RETURNED = "the function returned in a child process that it had forked"


@pytest.fixture(autouse=True)
def module(user_code: Path) -> None:
    (user_code / "forks.py").write_text(FORKS)


@pytest.mark.parametrize(
    "function",
    ["return_in_copy", "return_in_copy_of_pty", "return_in_copy_made_in_c", "complain_of_copy", "list_in_copy"],
)
async def test_a_function_that_returns_in_a_copy_fails_its_attempt(run: Run, work: Path, function: str) -> None:
    listing = {"items": str(work / "items")} if function == "list_in_copy" else {}
    answer = await run("callable", function=f"forks:{function}", **listing)
    assert answer["error"]["type"] == "exception"
    assert answer["error"]["message"].startswith(RETURNED)
    assert not answer["retryable"]
    assert "error" not in await run("callable", function="forks:pid"), "the next task is not blamed"


@pytest.mark.parametrize(
    ("function", "params", "printed"),
    [
        ("exit_in_copy", {}, ""),
        ("exit_in_copy", {"code": "no flights"}, "no flights\n"),
        ("raise_in_copy", {}, "ValueError: in the copy\n"),
        ("exec_in_copy", {}, "from a program\n"),
        ("write_in_copy", {}, ""),
        ("write_in_program", {}, ""),
        ("process_exits", {}, ""),
        ("pool", {}, ""),
    ],
)
async def test_a_copy_that_ends_itself_does_no_harm(
    run: Run, work: Path, function: str, params: dict[str, Any], printed: str
) -> None:
    answer = await run("callable", function=f"forks:{function}", params=params)
    assert "error" not in answer
    assert (work / "output").read_text() == "done"
    assert (work / "log").read_text().endswith(printed)
    assert "services/worker" not in (work / "log").read_text()


@pytest.mark.parametrize("function", ["leave_copy_running", "leave_daemon_running"])
async def test_a_copy_that_outlives_its_task_answers_for_no_other(run: Run, work: Path, function: str) -> None:
    first = await run("callable", function=f"forks:{function}")
    second = await run("callable", function="forks:pid")
    third = await run("callable", function="forks:pid")
    assert "error" not in first
    assert first["value"]["pid"] != second["value"]["pid"] == third["value"]["pid"]


@pytest.mark.parametrize("program", [False, True])
async def test_a_daemon_ends_with_the_task_that_it_left(run: Run, work: Path, program: bool) -> None:
    environment = {"PATH": os.environ["PATH"], "PIECEWORK_OUTPUT": str(work / "output")}
    with pytest.raises(TaskError, match="the process ended itself with exit code 0"):
        await run("callable", function="forks:become_daemon", params={"program": program}, environment=environment)
    await until(lambda: not psutil.pid_exists(int((work / "output.pid").read_text())))


@pytest.mark.parametrize("function", ["write_everywhere", "write_a_little_everywhere"])
async def test_what_user_code_writes_to_the_connection_does_not_answer(run: Run, function: str) -> None:
    with pytest.raises(TaskError, match="wrote to its process's connection to the worker") as broken:
        await run("callable", function=f"forks:{function}")
    assert broken.value.type == "crash"
    assert "error" not in await run("callable", function="forks:pid")


@pytest.mark.parametrize("leave", ["return", "raise", "exit", "end"])
async def test_a_record_function_that_forks(run: Run, work: Path, leave: str) -> None:
    (work / "input").write_text("".join(f'{{"n":{n}}}\n' for n in range(20)))
    answer = await run(
        "records",
        function="forks:record_in_copy",
        params={"leave": leave},
        format="jsonl",
        options={},
        declared_columns={},
        output_format="jsonl",
        rejects=str(work / "rejects"),
        rejects_max=None,
        task={"stage": 0, "index": 0, "sources": {}},
    )
    if leave == "end":
        assert (answer["records_out"], answer.get("error")) == (20, None)
    else:
        assert answer["error"]["message"].startswith(RETURNED)
    assert (work / "output").read_text() == (work / "input").read_text(), "nothing is written twice"
    assert not (work / "rejects").exists()
