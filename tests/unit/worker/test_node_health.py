"""What is the node's fault, and what it finds wrong with itself."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.engine.attempt import AttemptReport
from services.worker.isolation.errors import IsolationUnusable
from services.worker.node.quarantine import Quarantine
from services.worker.task.node_health import NodeHealth, is_of_node
from services.worker.task.scratch import scratch_directory


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    with scratch_directory(tmp_path / "scratch") as directory:
        yield directory


@pytest.fixture
def health(directory: Path, tmp_path: Path) -> NodeHealth:
    return NodeHealth(directory, tmp_path / "cache", 1)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EMFILE, "Too many open files"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        MemoryError(),
        RuntimeError("can't start new thread"),
        IsolationUnusable("no sandbox"),
    ],
)
def test_what_the_worker_could_not_do_is_the_nodes_fault(error: Exception) -> None:
    assert is_of_node(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENAMETOOLONG, "File name too long"),
        OSError(errno.E2BIG, "Argument list too long"),
        OSError(errno.ENOSPC, "No space left on device"),  # until it is known who has filled the disk
        ValueError("embedded null byte"),
        RuntimeError("dictionary changed size"),
    ],
)
def test_what_a_tasks_own_names_and_data_cause_is_not(error: Exception) -> None:
    assert not is_of_node(error)


def test_a_node_that_can_work_has_no_fault(health: NodeHealth, directory: Path) -> None:
    assert health.look() is None
    assert [path.name for path in directory.iterdir()] == ["lock"]


def test_a_directory_that_is_gone_is_a_fault_once_and_is_made_again_for_this_worker_alone(
    directory: Path, tmp_path: Path
) -> None:
    directory.chmod(0o711)
    health = NodeHealth(directory, tmp_path / "cache", 1)
    shutil.rmtree(directory.parent)

    assert "was gone" in (health.look() or "")

    assert directory.stat().st_mode & 0o777 == 0o711
    with scratch_directory(directory.parent):  # which removes those of dead workers
        assert directory.is_dir()
    assert health.look() is None


async def test_a_fault_excuses_all_attempts_that_ran_when_it_was_found_and_no_later_one(
    health: NodeHealth, directory: Path
) -> None:
    began = time.monotonic()
    shutil.rmtree(directory.parent)
    for _ in range(2):
        assert "was gone" in (await health.find_fault(began) or "")
    assert await health.find_fault(time.monotonic()) is None


def test_a_directory_that_can_not_be_made_again_stays_a_fault(health: NodeHealth, directory: Path) -> None:
    shutil.rmtree(directory.parent)
    directory.parent.touch()
    for _ in range(2):
        assert "was gone: " in (health.look() or "")


def test_a_cache_that_is_gone_is_made_again(health: NodeHealth, tmp_path: Path) -> None:
    assert health.look() is None
    (tmp_path / "cache").rmdir()
    assert health.look() is None
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize(
    ("bytes_min", "free", "fault"),
    [(100 << 20, 90, True), (100 << 20, 110, False), (1 << 20, 2, False), (2**62, 60, False), (2**62, 40, True)],
)
def test_a_disk_is_full_below_the_wanted_bytes_or_a_twentieth_of_a_small_one(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_min: int, free: int, fault: bool
) -> None:
    plain = os.statvfs(directory)
    blocks, size = 1000, 1 << 20
    if bytes_min == 100 << 20:
        blocks = 1_000_000
    values = list(plain)
    values[:5] = [size, size, blocks, free, free]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    found = NodeHealth(directory, tmp_path / "cache", bytes_min).look()
    assert ("disk is full" in (found or "")) == fault


def report(outcome: Any, losses_max: int | None = None) -> AttemptReport:
    error = {"type": "node_unfit", "message": "its disk is full"} if losses_max else None
    return AttemptReport(uuid4(), 0, 0, 1, outcome, 0.0, losses_max=losses_max, error=error)


def test_a_node_is_out_of_service_after_so_many_attempts_in_a_row_that_it_could_not_run() -> None:
    reasons: list[str] = []
    quarantine = Quarantine(3, reasons.append)
    for outcome in ("unfit", "unfit", "succeeded", "unfit", "unfit", "failed", "unfit", "cut off", "unfit"):
        if outcome == "unfit":
            quarantine.note(report("released", 5), time.monotonic())
        else:
            quarantine.note(report("released" if outcome == "cut off" else outcome), time.monotonic())
    assert reasons == []
    quarantine.note(report("released", 5), time.monotonic())
    quarantine.note(report("released", 5), time.monotonic())
    assert reasons == ["3 attempts in a row could not run; the last: its disk is full"]


def test_attempts_that_ran_side_by_side_tell_of_one_moment() -> None:
    reasons: list[str] = []
    quarantine, began = Quarantine(2, reasons.append), time.monotonic()
    for _ in range(10):
        quarantine.note(report("released", 5), began)
    assert reasons == []
    quarantine.note(report("released", 5), time.monotonic())
    assert len(reasons) == 1
