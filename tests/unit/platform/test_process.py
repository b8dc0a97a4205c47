"""What another process can read of one that has hidden its environment, and forbidden dumps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

HIDING = """
import ctypes, os, subprocess, sys
from services.platform.process import hide_environment
os.environ["ADDED"] = "since"
hide_environment()
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
seen = [os.environ["AWS_SECRET_ACCESS_KEY"], getenv(b"AWS_SECRET_ACCESS_KEY").decode(), os.environ["ADDED"]]
print(*seen, flush=True)
subprocess.run(["sh", "-c", "echo $AWS_SECRET_ACCESS_KEY"])
sys.stdin.read()
"""

# A process of an ordinary user, and whether another of that user can read its environment, before and after.
FORBIDDING = """
import ctypes, os
from services.platform.process import forbid_dumps
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1)  # as after the start of a program
def readable():
    pid = os.fork()
    if pid == 0:
        try:
            open(f"/proc/{os.getppid()}/environ", "rb").read()
            os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
before = readable()
forbid_dumps()
print(before, readable())
"""

# A worker's looks at a child and at itself, as an ordinary user.
LOOKING = """
import asyncio, os, psutil
from services.platform.process import forbid_dumps, hide_environment
from services.worker.task import memory_watch, processes
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
hide_environment()
forbid_dumps()
async def main():
    child = await asyncio.create_subprocess_exec("sleep", "100", env={"PATH": os.defpath, "MARK": "mine"})
    print(memory_watch.tree_memory_bytes(child.pid) > 0, psutil.Process(child.pid).environ().get("MARK"))
    print(psutil.Process().memory_info().rss > 0, child.pid in [found.pid for found in psutil.Process().children()])
    print(processes._is_of(child.pid, {("MARK", "mine")}, None))
    child.kill()
    print(await child.wait())
asyncio.run(main())
"""


def python(program: str, **environment: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_hidden_environment_is_not_seen_from_outside_and_still_serves_inside() -> None:
    names = {"PIECEWORK_DATABASE_URL": "postgresql://u:in-url@h/d", "AWS_SECRET_ACCESS_KEY": "of-aws"}
    with python(HIDING, **names, PIECEWORK_POOL="gpu") as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["of-aws", "of-aws", "since"]
        assert process.stdout.readline().strip() == "of-aws"  # in a program that it starts
        shown = Path(f"/proc/{process.pid}/environ").read_bytes()
        process.communicate("")
    assert shown.rstrip(b"\0") == b"PIECEWORK_POOL=gpu"


def test_no_other_process_of_the_same_user_reads_one_that_forbids_dumps() -> None:
    output, _ = python(FORBIDDING).communicate()
    assert output.split() == ["True", "False"]


def test_a_process_that_forbids_dumps_runs_and_sees_its_children_as_before() -> None:
    output, _ = python(LOOKING).communicate()
    assert output.split() == ["True", "mine", "True", "True", "True", "-9"]
