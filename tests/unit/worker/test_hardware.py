"""What a node has: as its container says, or its settings."""

from pathlib import Path

import pytest

from services.platform.settings import WorkerSettings
from services.worker.task.hardware import Hardware, find_gpus
from services.worker.task.share import node_cpus

GiB = 1 << 30


@pytest.mark.parametrize(
    ("quota", "cpus"), [("150000 100000", 1.5), ("max 100000", 64.0), ("50000 100000", 0.5), ("", 64.0)]
)
def test_a_containers_quota_is_what_a_node_has_of_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cpus: float
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    group = tmp_path / "cgroups" / "system.slice" / "worker"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(quota)
    (tmp_path / "cgroup").write_text("0::/system.slice/worker\n")
    assert node_cpus(tmp_path, tmp_path / "cgroups") == cpus


def test_gpus_are_nvidias_device_files_or_what_the_worker_may_see(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert find_gpus({}, tmp_path) == ("0", "1")
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == ("1",)
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "GPU-8932f937, MIG-7a3c"}, tmp_path) == ("GPU-8932f937", "MIG-7a3c")
    assert (
        find_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == find_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == ()
    )


def test_settings_come_before_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    found = Hardware.of_node(WorkerSettings(), tmp_path)
    assert found.gpus == ("4", "5")
    assert found.capacity.cpus > 0 and found.capacity.memory > 0 and found.capacity.disk >= 0

    told = Hardware.of_node(WorkerSettings(cpus=0.5, memory=GiB, gpus=1, disk=2 * GiB), tmp_path)
    assert (told.capacity.cpus, told.capacity.memory, told.capacity.disk) == (0.5, GiB, 2 * GiB)
    assert told.gpus == ("4",)
    assert Hardware.of_node(WorkerSettings(gpus=3), tmp_path).gpus == ("0", "1", "2")
    assert Hardware.of_node(WorkerSettings(gpus=0), tmp_path).capacity.gpus == 0
