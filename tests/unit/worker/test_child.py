"""User code in the child process: what it may do to itself, what it can't do to others, and what is told of it."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.contract.task_error import TaskError
from services.worker.isolation.cells import Cells
from services.worker.task.child_process import ChildProcess
from services.worker.task.memory_watch import MemoryExceeded
from services.worker.task.warm_children import WarmChildren
from tests.unit.worker.conftest import Run
from tests.until import until


async def test_a_callable_gets_files_and_params_and_returns_a_value(run: Run, work: Path) -> None:
    answer = await run("callable", function="user_code:shout", params={"mark": "?"})
    assert answer["value"] == {"chars": 10}
    assert (work / "output").read_text() == "SOME INPUT?"
    assert (work / "log").read_text() == "shouting\n"
    assert "error" not in answer
    assert 0 < answer["cpu_seconds"] < 5
    assert 5_000_000 < answer["memory_bytes_peak"] < 100_000_000


async def test_imports_stay_warm_between_tasks_of_one_processor_only(run: Run) -> None:
    first, second = [await run("callable", function="user_code:count") for _ in range(2)]
    other = await run("callable", function="user_code:count", processor=("p", 2))
    assert (first["value"]["calls"], second["value"]["calls"], other["value"]["calls"]) == (1, 2, 1)
    assert first["value"]["pid"] == second["value"]["pid"] != other["value"]["pid"]


async def test_an_exception_is_told_with_its_traceback_in_the_log(run: Run, work: Path) -> None:
    answer = await run("callable", function="user_code:fail")
    assert answer["error"] == {"type": "exception", "message": "ValueError: bad carrier 'X9'"}
    assert answer["retryable"]
    log = (work / "log").read_text()
    assert log.startswith("before\nTraceback")
    assert 'raise ValueError("bad carrier' in log
    assert "services/worker" not in log


async def test_an_exception_can_say_that_the_input_is_bad(run: Run) -> None:
    """Then no other try is made."""
    answer = await run("callable", function="user_code:refuse")
    assert answer["error"] == {"type": "input_invalid", "message": "Unusable: an image, not a video"}
    assert not answer["retryable"]


async def test_a_full_disk_is_told_as_such(run: Run) -> None:
    answer = await run("callable", function="user_code:fill_the_disk")
    assert answer["error"] == {"type": "disk_full", "message": "OSError: [Errno 28] No space left on device"}
    assert answer["retryable"]


@pytest.mark.parametrize(
    ("function", "params", "message", "exit_code"),
    [
        ("segfault", {}, "killed by signal 11 (SIGSEGV)", 139),
        ("exit_at_once", {}, "the process ended itself with exit code 3", 3),
        ("exit_at_once", {"code": 0}, "the process ended itself with exit code 0", 0),
        ("shoot", {}, "killed by signal 9 (SIGKILL); the node may be short of memory", 137),
        ("shoot", {"number": 15}, "killed by signal 15 (SIGTERM)", 143),
    ],
)
async def test_a_crash_costs_one_attempt(
    run: Run, function: str, params: dict[str, int], message: str, exit_code: int
) -> None:
    with pytest.raises(TaskError) as crash:
        await run("callable", function=f"user_code:{function}", params=params)
    assert (crash.value.type, crash.value.message, crash.value.exit_code) == ("crash", message, exit_code)
    assert crash.value.retryable
    assert (await run("callable", function="user_code:count"))["value"]["calls"] == 1


async def test_a_segfault_leaves_what_was_printed_and_where_it_was(run: Run, work: Path) -> None:
    with pytest.raises(TaskError):
        await run("callable", function="user_code:segfault")
    log = (work / "log").read_text()
    assert log.startswith("last words\n")
    assert "in segfault" in log


async def test_user_code_that_closes_the_connection_is_killed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.worker.task.child_process._EXIT_SECONDS", 0.1)
    with pytest.raises(TaskError, match="closed its process's connection"):
        await run("callable", function="user_code:close_everything")


async def test_cancelling_kills_the_child_and_what_it_started(run: Run, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    job = asyncio.create_task(run("callable", function="user_code:hang", params={"marker": str(marker)}))
    await until(lambda: marker.exists() and marker.read_text().endswith("\n"))
    program = psutil.Process(int(marker.read_text()))
    child = psutil.Process(program.ppid())
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    await until(lambda: not alive(program) and not alive(child))
    assert (await run("callable", function="user_code:count"))["value"]["calls"] == 1


async def test_memory_beyond_the_limit_kills(run: Run) -> None:
    limit = 150 << 20
    with pytest.raises(MemoryExceeded) as exceeded:
        await run("callable", function="user_code:eat", params={"megabytes": 300}, memory_bytes_max=limit)
    assert exceeded.value.memory_bytes > limit
    assert str(limit) in str(exceeded.value)
    answer = await run("callable", function="user_code:eat", params={"megabytes": 50}, memory_bytes_max=limit)
    assert answer["value"] == {"megabytes": 50}


async def test_memory_of_programs_a_command_starts_counts(run: Run) -> None:
    eat = "held = bytearray(300 << 20); held[::4096] = b'1' * len(held[::4096]); import time; time.sleep(30)"
    with pytest.raises(MemoryExceeded):
        await run("command", arguments=["sh", "-c", f'{sys.executable} -c "{eat}"; true'], memory_bytes_max=150 << 20)


async def test_the_peak_is_the_tasks_own(run: Run) -> None:
    big = await run("callable", function="user_code:eat", params={"megabytes": 100})
    small = await run("callable", function="user_code:eat", params={"megabytes": 1})
    assert big["memory_bytes_peak"] > 100 << 20
    assert small["memory_bytes_peak"] < 60 << 20


async def test_output_of_c_code_and_programs_is_in_the_log_of_its_task(run: Run, work: Path) -> None:
    for function in ("print_in_c", "print_from_a_program", "close_streams", "count", "fail"):
        await run("callable", function=f"user_code:{function}", log=str(work / function))
    assert sorted((work / "print_in_c").read_text().splitlines()) == ["from C", "from the descriptor"]
    assert (work / "print_from_a_program").read_text() == "from a program\n"
    assert (work / "count").read_text() == ""
    assert (work / "fail").read_text().startswith("before\nTraceback")


async def test_user_code_finds_an_ordinary_interpreter(run: Run, work: Path, user_code: Path) -> None:
    """Its own package `services` is not hidden by ours, its working directory is private, its stdin is empty."""
    answer = await run("callable", function="user_code:modules")
    assert answer["value"] == {
        "mine": True,
        "cwd": str(work),
        "stdin": "",
        "path": [str(user_code), answer["value"]["path"][1]],
    }


async def test_multiprocessing_works(run: Run) -> None:
    assert (await run("callable", function="user_code:spawn"))["value"] == {"squares": [1, 4, 9]}


async def test_the_environment_is_the_tasks(run: Run) -> None:
    answer = await run("callable", function="user_code:environment")
    assert answer["value"] == {"PIECEWORK_TASK_INDEX": "7"}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "can't load no_such_module:f: ModuleNotFoundError: No module named 'no_such_module'"),
        ("user_code:nothing", "can't load user_code:nothing: AttributeError"),
        ("user_code:not_callable", "can't load user_code:not_callable: it is of type int, not a function"),
    ],
)
async def test_a_function_that_is_not_there(run: Run, function: str, message: str) -> None:
    answer = await run("callable", function=function)
    assert answer["error"]["type"] == "processor_load"
    assert answer["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("function", "params", "message"),
    [
        ("give", {"value": {"text": "x" * 5000}}, "5011 bytes of JSON, at most 4096 fit"),
        ("give", {"value": {"text": "a\0b"}}, "a NUL character"),
        ("give_number", {}, "a value of type int; it must return a dict or None"),
        ("give_unserialisable", {}, "a value of type TextIOWrapper can't be written as JSON"),
        ("give_nan", {}, "not JSON compliant"),
    ],
)
async def test_a_value_that_is_none_is_invalid_output(
    run: Run, function: str, params: dict[str, object], message: str
) -> None:
    answer = await run("callable", function=f"user_code:{function}", params=params)
    assert answer["error"]["type"] == "output_invalid"
    assert message in answer["error"]["message"]
    assert not answer["retryable"]


async def test_sys_exit_is_an_exit_code(run: Run) -> None:
    assert not {"error", "value"} & (await run("callable", function="user_code:leave")).keys()
    answer = await run("callable", function="user_code:leave", params={"code": 4})
    assert (answer["error"], answer["exit_code"]) == ({"type": "exit_code", "message": "exit code 4"}, 4)
    answer = await run("callable", function="user_code:leave", params={"code": "no flights"})
    assert (answer["error"]["message"], answer["exit_code"]) == ("exit code 1: no flights", 1)


async def test_a_command_runs_without_a_shell(run: Run, work: Path) -> None:
    answer = await run("command", arguments=["cp", str(work / "input"), str(work / "output")])
    assert "error" not in answer
    assert (work / "output").read_text() == "some input"
    await run("command", arguments=["echo", "$HOME; exit 1"])
    assert (work / "log").read_text() == "$HOME; exit 1\n"


async def test_a_command_fails_with_its_last_words(run: Run, work: Path) -> None:
    answer = await run("command", arguments=["sh", "-c", "echo reading; echo 'no such column: delay' >&2; exit 3"])
    assert answer["error"] == {"type": "exit_code", "message": "exit code 3: no such column: delay"}
    assert answer["exit_code"] == 3
    answer = await run("command", arguments=["sh", "-c", "kill -SEGV $$"], log=str(work / "empty"))
    assert answer["error"] == {"type": "crash", "message": "killed by signal 11 (SIGSEGV)"}
    assert answer["exit_code"] == 139


@pytest.mark.parametrize("arguments", [["no-such-program"], ["/etc/hostname"], ["a\0b"]])
async def test_a_program_that_can_not_run(run: Run, arguments: list[str]) -> None:
    answer = await run("command", arguments=arguments)
    assert answer["error"]["type"] == "processor_load"
    assert answer["error"]["message"].startswith(f"can't run {arguments[0]!r}: ")


async def test_a_command_is_measured(run: Run) -> None:
    burn = "import time\nheld = b'x' * (80 << 20)\nwhile time.process_time() < 0.2: pass"
    answer = await run("command", arguments=[sys.executable, "-c", burn])
    assert 0.2 <= answer["cpu_seconds"] < 2
    assert 80 << 20 < answer["memory_bytes_peak"] < 200 << 20
    assert answer["exit_code"] == 0
    answer = await run("command", arguments=["true"])
    assert answer["memory_bytes_peak"] < 80 << 20


async def test_nothing_a_command_started_stays_behind(run: Run, tmp_path: Path) -> None:
    """Neither a background process nor a daemon in a session of its own."""
    script = f"sleep 1000 & echo $! > {tmp_path}/a; setsid sh -c 'echo $$ > {tmp_path}/b; exec sleep 1000' & sleep 0.2"
    await run("command", arguments=["sh", "-c", script])
    for name in "ab":
        assert not psutil.pid_exists(int((tmp_path / name).read_text()))


async def test_what_a_callable_leaves_running_ends_with_its_task(run: Run) -> None:
    answer = await run("callable", function="user_code:leave_a_program")
    await until(lambda: not psutil.pid_exists(answer["value"]["pid"]))
    assert (await run("callable", function="user_code:count"))["value"]["calls"] == 1


async def test_nothing_stays_behind_when_the_child_itself_is_killed(run: Run, tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; kill -9 $PPID; sleep 1000"
    with pytest.raises(TaskError, match="SIGKILL"):
        await run("command", arguments=["sh", "-c", script])
    await until(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())))


async def test_the_child_dies_with_its_worker(user_code: Path, tmp_path: Path) -> None:
    """SIGKILL of the worker's process takes the child and the command it runs along, at once."""
    script = f"""
import asyncio, os
from pathlib import Path
from services.worker.isolation.cells import Cells
from services.worker.task.child_process import ChildProcess
async def main():
    child = await ChildProcess.start(Cells("process", Path({str(tmp_path)!r})), dict(os.environ))
    files = dict.fromkeys(("log", "input", "output", "records"), {str(tmp_path / "file")!r})
    nothing = {{"params": {{}}, "paths": {{}}, "steps": [], "checks": [], "items": None}}
    job = {{"kind": "command", "directory": "/", "environment": dict(os.environ), **nothing, **files}}
    await child.run(job | {{"arguments": ["sh", "-c", "echo $PPID $$ > {tmp_path}/pids; exec sleep 1000"]}})
asyncio.run(main())
"""
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    await until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("\n"))
    child, program = (psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    worker.send_signal(signal.SIGKILL)
    await worker.wait()
    await until(lambda: not alive(child) and not alive(program))


async def test_a_child_that_holds_much_memory_is_replaced(child: WarmChildren, run: Run) -> None:
    """What earlier tasks leaked must not count against the limit of the next."""
    limit = 64 << 20
    first = await run("callable", function="user_code:count", memory_bytes_max=limit)
    assert first["memory_bytes"] < limit / 2
    same = await run("callable", function="user_code:count", memory_bytes_max=limit)
    other = await run("callable", function="user_code:count", memory_bytes_max=int(first["memory_bytes"] * 1.5))
    assert same["value"]["calls"] == 2
    assert other["value"]["calls"] == 1


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_what_a_killed_job_has_used_is_known(user_code: Path, work: Path) -> None:
    (user_code / "busy.py").write_text("def spin(input, output):\n    while True: pass\n")
    child = await ChildProcess.start(Cells("process", work), {**os.environ, "PYTHONPATH": str(user_code)})
    files = {name: str(work / name) for name in ("log", "input", "output")}
    nothing: dict[str, Any] = {"params": {}, "paths": {}, "steps": [], "checks": [], "items": None}
    job = {"kind": "callable", "function": "busy:spin", "directory": str(work), **nothing}
    killed: dict[str, Any] = {}

    running = asyncio.create_task(child.run(job | files | {"environment": {}}, None, killed))
    await until(lambda: psutil.Process(child.pid).cpu_times().user > 0.1)
    running.cancel()
    await asyncio.wait({running})

    assert killed["cpu_seconds"] > 0.0
    assert killed["memory_bytes_peak"] > 1 << 20
