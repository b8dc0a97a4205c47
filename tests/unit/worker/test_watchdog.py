"""A worker whose event loop stands still ends; one that was only stopped, or is busy, does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.worker.node.watchdog import EXIT_CODE

ROOT = Path(__file__).parents[3]


def start(body: str, limit_seconds: float = 0.3) -> subprocess.Popen[str]:
    """A program whose loop runs the body under the watch."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    program = (
        "import asyncio, os, re, signal, threading, time\n"
        "from services.worker.node.watchdog import watching\n"
        f"async def main():\n    with watching({limit_seconds}):\n{lines}\n"
        "asyncio.run(main())\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_loop_that_waits_in_a_call_ends_its_process_and_says_where(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with start(f"def stuck():\n    open({str(tmp_path / 'pipe')!r})\nstuck()") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE
    assert "the event loop has stood still for 0.3 s" in said
    assert "in stuck" in said


def test_a_loop_that_holds_the_interpreter_ends_its_process_and_says_where() -> None:
    with start("def stuck():\n    re.match('(a+)+$', 'a' * 60 + 'b')\nstuck()", 0.2) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGPROF
    assert "in stuck" in said


def test_a_process_that_was_stopped_goes_on() -> None:
    with start("print('up', flush=True)\nfor _ in range(60):\n    await asyncio.sleep(0.01)\nprint('done')") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(1)  # much longer than the limit
        process.send_signal(signal.SIGCONT)
        rest, said = process.communicate(timeout=60)
    assert (process.returncode, rest, said) == (0, "done\n", "")


@pytest.mark.parametrize("work", ["sum(range(1000))", "hash(bytes(1 << 20))"])
def test_threads_that_keep_the_processors_busy_do_not_end_the_process(work: str) -> None:
    body = (
        "stop = threading.Event()\n"
        f"def busy():\n    while not stop.is_set():\n        {work}\n"
        "threads = [threading.Thread(target=busy) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "for _ in range(100):\n    await asyncio.sleep(0.01)\n"
        "stop.set()\n"
    )
    with start(body, 1.0) as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
