"""Cgroups of children, where this process may make them."""

import subprocess

import pytest

from services.worker.isolation.cgroups import Cgroups


def test_all_processes_of_a_cgroup_are_killed_at_once_and_it_is_gone() -> None:
    cgroups = Cgroups.find()
    if cgroups is None:
        pytest.skip("there is no cgroup of version 2 that this process may write to")
    cgroup = cgroups.make()
    script = f"echo $$ > {cgroup.directory}/cgroup.procs; setsid sleep 1000 & sleep 1000"
    shell = subprocess.Popen(["sh", "-c", script])
    while len((cgroup.directory / "cgroup.procs").read_text().split()) < 3:
        assert shell.poll() is None
    cgroup.kill()
    assert shell.wait() == -9
    cgroups.end(cgroup)
    while cgroup.directory.exists():  # until the kernel has forgotten its processes
        cgroups.end(cgroups.make())
