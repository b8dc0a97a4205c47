"""A task's memory: its default and highest limit, and the watch that holds it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.worker.child import linux
from services.worker.task.memory_watch import MemoryExceeded, MemoryWatch, tree_memory_bytes
from services.worker.task.share import Share, node_memory_bytes
from tests.unit.worker.conftest import Run

GiB = 1 << 30


def cgroup(tmp_path: Path, line: str, **limits: str) -> tuple[Path, Path]:
    """A /proc/self and a /sys/fs/cgroup in which files have these limits, by path with `__` for `/`."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(line)
    for path, limit in limits.items():
        file = (
            tmp_path / "cgroups" / path.replace("__", "/").replace("_MAX", ".max").replace("_LIMIT", ".limit_in_bytes")
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit)
    return tmp_path / "proc", tmp_path / "cgroups"


def test_the_memory_of_a_node_is_the_least_that_its_cgroups_allow(tmp_path: Path) -> None:
    places = cgroup(tmp_path, "0::/pod/worker\n", pod__worker__memory_MAX="max\n", pod__memory_MAX="1000000\n")
    assert node_memory_bytes(*places) == 1_000_000


def test_a_container_with_cgroups_of_version_1_sees_its_limit_at_the_mounts_root(tmp_path: Path) -> None:
    places = cgroup(tmp_path, "4:memory:/docker/0123\n1:cpu:/\n", memory__memory_LIMIT="2000000\n")
    assert node_memory_bytes(*places) == 2_000_000


def test_a_node_without_limits_has_the_machines_memory(tmp_path: Path) -> None:
    assert node_memory_bytes(*cgroup(tmp_path, "0::/\n")) == psutil.virtual_memory().total


@pytest.mark.parametrize(("node", "reserve"), [(64 * GiB, GiB // 2), (GiB, GiB // 8)])
def test_slots_share_what_a_reserve_for_the_worker_leaves(
    node: int, reserve: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.worker.task.share.node_memory_bytes", lambda: node)
    share = Share.of_node(4)
    assert share.memory_bytes_max == node - reserve
    assert share.memory_of(None) == (node - reserve) // 4
    assert share.memory_of(GiB // 4) == GiB // 4
    assert share.memory_of(1 << 45) == node - reserve


def test_who_runs_out_of_memory_is_told_how_to_get_more() -> None:
    share = Share(1, GiB, 2 * GiB)
    assert "set memory_bytes" in share.explain_memory(None)
    assert "by memory_bytes" in share.explain_memory(2 * GiB)
    assert str(4 * GiB) in share.explain_memory(4 * GiB)
    asking = Share(1, GiB, 2 * GiB, asked=True)
    assert "that the stage asks for" in asking.explain_memory(None)
    assert "by memory_bytes" in asking.explain_memory(2 * GiB)


async def test_the_kernel_takes_a_task_before_its_worker(run: Run, work: Path) -> None:
    await run("command", arguments=["sh", "-c", f"cat /proc/self/oom_score_adj > {work}/own"])
    assert (work / "own").read_text() == "1000\n"
    assert linux.read("/proc/self/oom_score_adj") != b"1000\n"


async def test_a_task_shorter_than_a_pause_is_not_looked_at(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def look(watch: MemoryWatch) -> None:
        raise AssertionError("looked")

    await run("callable", function="user_code:count", memory_bytes_max=4 * GiB)  # starts the child
    monkeypatch.setattr(MemoryWatch, "look", look)
    for _ in range(3):
        await run("callable", function="user_code:count", memory_bytes_max=4 * GiB)


def test_the_first_look_comes_before_a_small_limit_can_be_far_exceeded() -> None:
    assert MemoryWatch(int, None, 0).pause_seconds is None
    assert MemoryWatch(int, 64 * GiB, 0).pause_seconds == 0.2
    assert MemoryWatch(int, 100 << 20, 0).pause_seconds == pytest.approx((100 << 20) / (4 * GiB))
    assert MemoryWatch(int, 100 << 20, 100 << 20).pause_seconds == 0.02


async def test_a_task_that_fills_memory_fast_ends_near_its_limit(run: Run, user_code: Path) -> None:
    (user_code / "fast.py").write_text("def fill(input, output):\n    return [b'1' * (1 << 20) for _ in range(4096)]\n")
    limit = 256 << 20
    with pytest.raises(MemoryExceeded) as exceeded:
        await run("callable", function="fast:fill", memory_bytes_max=limit)
    assert exceeded.value.memory_bytes < 8 * limit


PYTHON = """
import mmap, os, sys, time
{code}
print(flush=True)
time.sleep(60)
"""


def program(code: str) -> "subprocess.Popen[str]":
    """A running Python program that has executed the code."""
    started = subprocess.Popen([sys.executable, "-c", PYTHON.format(code=code)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    started.stdout.readline()
    return started


def measured(code: str, enough: int = 0) -> int:
    with program(code) as running:
        try:
            return tree_memory_bytes(running.pid, enough)
        finally:
            for each in (*psutil.Process(running.pid).children(recursive=True), running):
                each.kill()


FORKED = (
    "held = bytearray(b'1') * (100 << 20)\nfor _ in range(3):\n    if not os.fork(): time.sleep(60)\ntime.sleep(0.1)"
)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is shared")
def test_memory_that_forks_share_counts_once() -> None:
    assert measured(FORKED) < 200 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is shared")
def test_memory_that_forks_share_is_not_looked_into_below_the_limit() -> None:
    assert measured(FORKED, 1 << 40) > 300 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells pages of files from others")
def test_pages_of_a_mapped_file_do_not_count(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"1" * (100 << 20))
    mapped = f"data = mmap.mmap(os.open({str(big)!r}, os.O_RDONLY), 0, access=mmap.ACCESS_READ); sum(data[::4096])"
    assert measured(mapped) < 50 << 20


def test_a_process_that_has_ended_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        assert tree_memory_bytes(ended.pid) == 0
