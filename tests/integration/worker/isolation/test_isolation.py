"""What user code can't do to its worker, to other tasks and to the machine, at the levels that promise it."""

import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from services.contract.states import Isolation
from services.contract.task_error import TaskError
from services.worker.isolation.cells import Cells
from services.worker.isolation.uids import Uids
from services.worker.isolation.view import View
from tests.integration.worker.isolation.conftest import LEVELS, SECRET, Slot

VALUE = "def main(input, output, **params):\n"
CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(result):
    return result == -1 and ctypes.get_errno()
"""


def test_a_task_finds_the_workers_secrets_nowhere(slot: Slot) -> None:
    code = """
from pathlib import Path
def main(input, output, halves):
    secret, found, memory = "".join(halves), [], []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            try:
                if secret.encode() in (process / name).read_bytes():
                    found.append(f"{process}/{name}")
            except OSError:
                pass
        if process.name != str(__import__("os").getpid()):
            try:
                open(process / "mem", "r+b").close()
                memory.append(str(process))
            except OSError:
                pass
    return {"found": found, "memory": memory}
"""
    value = slot.run(code, halves=[SECRET[:9], SECRET[9:]])["value"]
    assert value == {"found": [], "memory": []}


def test_a_task_can_neither_kill_stop_nor_trace_its_worker(slot: Slot) -> None:
    code = (
        CALLS
        + """
def main(input, output, pid):
    told = {}
    for number in (0, 9, 19):
        try:
            os.kill(pid, number)
            told[number] = "sent"
        except OSError as error:
            told[number] = type(error).__name__
    told["traced"] = refused(libc.ptrace(16, pid, None, None))
    return {"told": list(told.values())}
"""
    )
    told = slot.run(code, pid=slot.pid)["value"]["told"]
    assert set(told[:3]) <= {"ProcessLookupError", "PermissionError"}
    assert told[3] == 1, "ptrace fails with EPERM"
    assert psutil.Process(slot.pid).status() != psutil.STATUS_STOPPED


def test_a_task_sees_no_other_tasks_files(slot: Slot) -> None:
    other = Path(slot.directory, "other-task")
    other.mkdir(mode=0o700)
    (other / "input").write_text(SECRET)
    os.chown(other, psutil.Process(slot.pid).uids().real, -1)
    code = """
import os
from pathlib import Path
def main(input, output, other):
    try:
        listed = [path.name for path in Path(other).parent.iterdir() if path.name not in ("home", input.parent.name)]
    except PermissionError:
        listed = []
    try:
        return {"listed": listed, "read": (Path(other) / "input").read_text()}
    except OSError as error:
        return {"listed": listed, "read": type(error).__name__}
"""
    value = slot.run(code, other=str(other))["value"]
    assert value["listed"] == []
    assert value["read"] in ("FileNotFoundError", "PermissionError")


def test_a_task_sees_only_the_parts_of_the_machine_that_it_needs(sandboxed: Slot) -> None:
    code = """
import os
def main(input, output, seen):
    return {"seen": [path for path in seen if os.path.exists(path)]}
"""
    hidden = ["/etc/shadow", "/var/lib", "/run", "/boot", "/sys/fs", str(Path("tests").resolve()), "/dev/sda", "/home"]
    assert sandboxed.run(code, seen=hidden)["value"]["seen"] == []


def test_a_package_and_a_declared_input_are_read_only(slot: Slot, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in directory.parents:
            directory.chmod(0o755)
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("x = 1")
    code = """
import os
from pathlib import Path
def main(input, output, package):
    module, told = Path(package) / "module.py", []
    for change in (
        lambda: module.write_text("poisoned"),
        lambda: module.chmod(0o777),
        lambda: module.rename(module.with_name("other.py")),
        lambda: (module.parent / "more.py").write_text("more"),
        lambda: module.unlink(),
    ):
        try:
            change()
            told.append("changed")
        except OSError:
            told.append("refused")
    return {"told": told, "read": module.read_text()}
"""
    value = slot.run(code, package=str(package), readable=(str(package),))["value"]
    assert value == {"told": ["refused"] * 5, "read": "x = 1"}


DAEMON = (
    CALLS
    + """
import subprocess, sys, time
def main(input, output, mark):
    libc.prctl(36, 0, 0, 0, 0)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", mark])
        os._exit(0)
    os.wait()
    time.sleep(0.2)
    return {}
"""
)


def test_no_task_of_a_session_finds_a_file_of_another(slot: Slot) -> None:
    code = """
import os
from pathlib import Path

def main(input, output):
    own, tmp = input.read_text(), Path(os.environ["TMPDIR"])
    assert sorted(os.listdir(input.parent)) == ["input.txt", "output", "tmp", "work"]
    assert [*tmp.iterdir(), *output.parent.iterdir(), *Path(".").iterdir()] == []
    assert len(os.listdir(input.parent.parent)) == 2
    seen, secrets = set(), {"secret-a", "secret-b", "secret-c"}
    tops = (input.parent.parent.parent, input.parent.parent)
    for place, _, names in (found for top in tops for found in os.walk(top)):
        for name in names:
            try:
                seen |= secrets & {(Path(place) / name).read_text()}
            except (OSError, UnicodeDecodeError):
                pass
    output.write_text("made of " + own)
    for left in (tmp / "left", output.parent / "left", input.parent / "left", Path("left")):
        left.write_text(own)
    return {"seen": sorted(seen), "at": str(input)}
"""
    texts = ["secret-a", "secret-b", "secret-c"]
    ended = slot.run(code, session=texts, files=True)
    assert [answer.get("error") for answer in ended["answers"]] == [None] * 3
    assert [answer["value"]["seen"] for answer in ended["answers"]] == [[text] for text in texts]
    assert [answer["file"] for answer in ended["answers"]] == [f"made of {text}" for text in texts]
    assert len({answer["value"]["at"] for answer in ended["answers"]}) == 3


def test_the_tasks_of_a_session_find_what_a_task_alone_finds(slot: Slot) -> None:
    code = """
import os, resource, signal

def found(worker, place):
    told = {"ids": (os.getresuid(), os.getresgid(), os.getgroups()), "limits": [], "names": sorted(os.environ)}
    for name in ("RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_NOFILE"):
        told["limits"].append(resource.getrlimit(getattr(resource, name)))
    with open("/proc/self/status") as status:
        told["rights"] = [line for line in status if line.startswith(("Cap", "NoNewPrivs", "Seccomp:"))]
    told["spaces"] = [os.readlink(f"/proc/self/ns/{name}") == seen for name, seen in worker["spaces"].items()]
    for act in (lambda: os.kill(worker["pid"], 0), lambda: open(f"/proc/{worker['pid']}/environ").read(),
                lambda: os.listdir(worker["directory"])):
        try:
            told.setdefault("acts", []).append("done" if act() is None else "read")
        except OSError as error:
            told["acts"].append(error.errno)
    return told

def main(item, output=None, *, worker):
    print("item", item if output is None else "alone")
    return {"found": found(worker, "."), "item": None if output else item}
"""
    spaces = {
        name: str(Path(f"/proc/{slot.pid}/ns/{name}").readlink())
        for name in ("user", "pid", "mnt", "ipc", "uts", "net")
    }
    worker = {"pid": slot.pid, "directory": slot.directory, "spaces": spaces}
    alone = slot.run(code, module="found", worker=worker)["value"]["found"]
    ended = slot.run(code, session=["a", "b", "c"], module="found", worker=worker)
    values = [answer["value"] for answer in ended["answers"]]
    assert [value["item"] for value in values] == ["a", "b", "c"]
    for value in values:
        own = set(value["found"].pop("names")) - set(alone["names"])
        assert all(name.startswith(("PIECEWORK_", "AWS_BATCH_", "SLURM_", "PBS_", "SGE_", "LSB_")) for name in own)
        assert value["found"] == {name: told for name, told in alone.items() if name != "names"}
    assert ended["printed"] == "item a\nitem b\nitem c\n"


def test_no_daemon_outlives_its_task(slot: Slot) -> None:
    mark = f"98{slot.pid}"
    assert "error" not in slot.run(DAEMON, mark=mark)
    deadline = time.monotonic() + 10
    while running(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(mark)


def running(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", mark] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_warm_child_serves_one_job_unless_all_share_it(slot: Slot) -> None:
    code = "seen = []\ndef main(input, output, name):\n    seen.append(name)\n    return {'seen': seen}\n"
    first = slot.run(code, module="shared", job=1, name="a")["value"]
    again = slot.run(code, module="shared", job=1, name="b")["value"]
    other = slot.run(code, module="shared", job=2, name="c")["value"]
    assert (first["seen"], again["seen"], other["seen"]) == (["a"], ["a", "b"], ["c"])
    shared = [slot.run(code, module="open", job=0, name=name)["value"]["seen"] for name in "xy"]
    assert shared == [["x"], ["x", "y"]]


def test_without_network_a_task_reaches_no_one_but_itself(slot: Slot) -> None:
    code = """
import socket
def main(input, output, port):
    with socket.create_server(("127.0.0.1", 0)) as own:
        socket.create_connection(own.getsockname(), 2).close()
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
        return {"reached": True}
    except OSError:
        return {"reached": False}
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert slot.run(code, port=port)["value"] == {"reached": True}
        assert slot.run(code, port=port, network=False)["value"] == {"reached": False}


def test_a_task_has_no_rights_and_can_gain_none(slot: Slot) -> None:
    code = (
        CALLS
        + """
def main(input, output):
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    calls = {
        "mount": refused(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
        "unshare": refused(libc.unshare(0x10000000)),
        "clone": refused(libc.syscall(56 if os.uname().machine == "x86_64" else 220, 0x10000011, 0, 0, 0, 0)),
        "keyctl": refused(libc.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 0)),
        "io_uring": refused(libc.syscall(425, 1, None)),
        "process_vm_readv": refused(libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)),
    }
    try:
        open("/proc/sys/kernel/core_pattern", "w").close()
        pattern = "writable"
    except OSError:
        pattern = "refused"
    names = ("CapEff", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp")
    return {"uid": os.getuid(), "calls": calls, "pattern": pattern, **{name: int(status[name], 16) for name in names}}
"""
    )
    value = slot.run(code)["value"]
    assert value.pop("uid") != 0
    assert set(value.pop("calls").values()) == {1}
    assert value == {
        "pattern": "refused", "CapEff": 0, "CapPrm": 0, "CapInh": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("end", "message", "exit_code"),
    [
        ("os._exit(7)", "exit code 7", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9", 137),
        ("os.abort()", "killed by signal 6", 134),
        ("os.kill(0, signal.SIGTERM); signal.pause()", "killed by signal 15", 143),
    ],
)
def test_the_end_of_a_child_is_told_as_it_was(slot: Slot, end: str, message: str, exit_code: int) -> None:
    answer = slot.run(f"import os, signal\ndef main(input, output):\n    {end}\n")
    assert (answer["error"]["type"], answer["exit_code"]) == ("crash", exit_code)
    assert message in answer["error"]["message"]


def test_the_end_of_a_command_is_told_as_it_was(slot: Slot) -> None:
    failed = slot.run(arguments=["sh", "-c", "echo bad luck >&2; exit 3"])
    killed = slot.run(arguments=["sh", "-c", "kill -SEGV $$"])
    assert (failed["error"]["message"], failed["exit_code"]) == ("exit code 3: bad luck", 3)
    assert killed["exit_code"] == 139


def test_a_task_that_stops_itself_ends_at_its_timeout(slot: Slot) -> None:
    code = "import os, signal\ndef main(input, output):\n    os.kill(os.getpid(), signal.SIGSTOP)\n"
    assert slot.run(code, seconds=3.0)["error"]["type"] == "timeout"
    assert "error" not in slot.run(VALUE + "    return {}\n")


def test_a_killed_child_leaves_no_zombie_to_its_worker(slot: Slot) -> None:
    sleeps = "import time\n" + VALUE + "    time.sleep(60)\n"
    for job in range(900, 903):
        assert slot.run(sleeps, job=job, seconds=1.0)["error"]["type"] == "timeout"

    assert "error" not in slot.run(VALUE + "    return {}\n", job=903)
    children = psutil.Process(slot.pid).children()
    assert [child for child in children if child.status() == psutil.STATUS_ZOMBIE] == []


def test_a_fork_bomb_fills_only_its_own_share_of_the_process_table(slot: Slot) -> None:
    code = """
import os, time
def main(input, output):
    made = 0
    try:
        while made < 2000:
            if os.fork() == 0:
                time.sleep(1000)
                os._exit(0)
            made += 1
    except BlockingIOError:
        pass
    return {"made": made}
"""
    assert slot.run(code)["value"]["made"] < 256
    assert "error" not in slot.run(VALUE + "    return {}\n")


def test_pythons_own_ways_to_share_work_and_memory_go_on_working(slot: Slot) -> None:
    code = """
import multiprocessing, os, tempfile
from multiprocessing import shared_memory
from pathlib import Path
def square(x):
    return x * x
def main(input, output):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        squares = pool.map(square, range(4))
    block = shared_memory.SharedMemory(create=True, size=16)
    block.close()
    block.unlink()
    Path(tempfile.mkdtemp(), "file").write_text("x")
    Path.home().joinpath("cache").write_text("x")
    Path(output).write_text("x")
    return {"squares": squares, "null": open("/dev/null").read(), "threads": len(os.sched_getaffinity(0))}
"""
    answer = slot.run(code)
    assert answer.get("value", answer)["squares"] == [0, 1, 4, 9]


def test_a_task_that_puts_another_directory_in_place_of_its_own_fails(slot: Slot) -> None:
    code = """
import os, shutil
def main(input, output):
    own = str(input.parent)
    try:
        os.rename(own, own + "-away")
        os.symlink("/etc", own)
    except OSError:
        return {"refused": True}
    return {}
"""
    answer = slot.run(code)
    assert answer.get("value") == {"refused": True} or "replaced its own directory" in answer["error"]["message"]


@pytest.mark.parametrize("isolation", ["sandbox", "uid"])
def test_a_tasks_directory_that_has_gone_is_its_nodes_fault(isolation: Isolation, tmp_path: Path) -> None:
    """A child of another user can't have removed it: a disk was lost, or somebody cleans up."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("changes users, which takes root on Linux")
    cell = Cells(isolation, tmp_path, uids=Uids(70_000, 70_009)).make(View(), {})
    (directory := tmp_path / "task").mkdir()
    given = cell.give(directory)
    shutil.rmtree(given.inside)
    with pytest.raises(TaskError) as failure:
        cell.take_back(given)
    assert failure.value.type == "node_unfit"
    cell.close()


def test_a_tasks_files_are_the_workers_again(slot: Slot) -> None:
    answer = slot.run(VALUE + "    output.write_text('x')\n    return {}\n")
    assert answer["owner"] == psutil.Process(slot.pid).uids().real


@pytest.mark.parametrize("level", LEVELS)
def test_no_process_of_a_child_outlives_its_worker(level: str) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("changes users, which takes root on Linux")
    slot = Slot(*LEVELS[level])
    if "error" in slot.started:
        pytest.skip(f"{level} does not work here: {slot.started['error']}")
    mark = f"97{slot.pid}"
    slot.send("", module=None, arguments=["sleep", mark], job=1, readable=(), network=True, seconds=60.0)
    while not running(mark):
        time.sleep(0.05)
    launched = psutil.Process(slot.pid).children(recursive=True)
    slot.kill()
    _, alive = psutil.wait_procs(launched, timeout=10)
    assert not alive and not running(mark)


def test_a_worker_refuses_a_level_that_does_not_work_here_and_says_why() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("changes users, which takes root on Linux")
    error = Slot("uid", 20_001).started["error"]
    assert error == (
        "PIECEWORK_ISOLATION=uid does not work here: uid: only a worker that runs as root can run tasks as other users"
    )
