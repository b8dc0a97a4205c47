"""What tasks need and nodes have."""

import pytest

from services.contract.resources import Capacity, Needs

GiB = 1 << 30
NODE = Capacity(cpus=8, memory=32 * GiB, gpus=2, disk=100 * GiB)


def test_what_is_not_asked_for_is_a_slots_share_and_of_gpus_and_disk_nothing() -> None:
    assert NODE.part(Needs(gpus=1), 4) == Capacity(2, 8 * GiB, 1, 0)
    assert NODE.part(Needs(cpus=0.5, memory=GiB, disk=GiB), 4) == Capacity(0.5, GiB, 0, GiB)


@pytest.mark.parametrize(
    ("needs", "count"),
    [
        (Needs(cpus=8), 1),
        (Needs(cpus=9), 0),
        (Needs(cpus=0.1, memory=GiB), 32),
        (Needs(cpus=0.1, memory=GiB // 16), 80),
        (Needs(cpus=2), 4),
        (Needs(cpus=1, memory=GiB, gpus=1), 2),
        (Needs(memory=12 * GiB), 2),
        (Needs(cpus=1, memory=GiB, disk=60 * GiB), 1),
        (Needs(gpus=3), 0),
    ],
)
def test_as_many_tasks_as_fit_run_beside_each_other(needs: Needs, count: int) -> None:
    assert NODE.count(NODE.part(needs, 4)) == count


def test_a_tenth_of_a_core_fits_ten_times_into_a_core() -> None:
    taken = Capacity()
    for _ in range(10):
        assert Capacity(1.0, 10).holds(taken + Capacity(0.1, 1))
        taken += Capacity(0.1, 1)
    assert not Capacity(1.0, 10).holds(taken + Capacity(0.1, 0))


def test_needs_are_told_as_people_write_them() -> None:
    assert str(Needs(cpus=1, memory=16 * GiB, gpus=2)) == "1 cpu, 16 GiB of memory, 2 gpus"


def test_needs_of_a_later_release_are_left_to_the_database() -> None:
    assert Needs.of({"cpus": 2, "quantum": 1}) == Needs(cpus=2)
    assert Needs.of({"quantum": 1}) is None
