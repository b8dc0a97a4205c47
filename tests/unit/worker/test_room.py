"""A node's slots, and the parts of it that bundles hold beside them."""

from services.contract.resources import Capacity, Needs
from services.worker.node.room import Part, Room
from services.worker.task.hardware import Hardware
from services.worker.task.warm_children import WarmChildren

GiB = 1 << 30
GPUS = ("0", "1", "2", "3")


def room(slots: int = 4) -> Room:
    hardware = Hardware(Capacity(8, 32 * GiB, len(GPUS), 100 * GiB), GPUS)
    return Room(hardware, slots, lambda: WarmChildren(None))  # type: ignore[arg-type]  # none of them runs anything


def taken(of: Room, needs: Needs, in_slots: int = 0) -> Part:
    part = of.take(needs, in_slots)
    assert part is not None
    return part


def test_a_part_closes_the_slots_that_no_longer_fit_beside_it_and_opens_them_again() -> None:
    node = room()
    part = taken(node, Needs(cpus=3))
    assert (node.open, node.free.qsize()) == (2, 2)
    second = taken(node, Needs(cpus=1))
    assert node.open == 2  # the half slot that was left
    node.give_back(part)
    assert node.open == 3
    node.give_back(part)
    node.give_back(second)
    assert (node.open, node.free.qsize()) == (4, 4)


def test_a_part_keeps_clear_of_the_slots_in_use() -> None:
    node = room()
    in_use = [node.free.get_nowait() for _ in range(3)]
    assert node.take(Needs(cpus=3), in_slots=3) is None
    assert node.take(Needs(cpus=2), in_slots=4) is None  # claimed, and about to ask for the last one
    assert taken(node, Needs(cpus=2), in_slots=3).size == Capacity(2, 8 * GiB)
    assert node.open == 3
    for children in in_use:
        node.free.put_nowait(children)


def test_no_two_parts_have_the_same_gpu() -> None:
    node, needs = room(), Needs(cpus=0.5, memory=GiB, gpus=2)
    parts = [taken(node, needs), taken(node, needs)]
    assert sorted(gpu for part in parts for gpu in part.gpus) == list(GPUS)
    assert node.take(needs, 0) is None
    node.give_back(parts[0])
    assert taken(node, needs).gpus == parts[0].gpus


def test_more_small_parts_than_slots_fit_each_with_children_of_its_own() -> None:
    node, needs = room(slots=2), Needs(cpus=0.25, memory=GiB)
    assert node.count(needs, 0) == 32
    parts = [taken(node, needs) for _ in range(32)]
    assert node.take(needs, 0) is None
    assert len({id(part.children) for part in parts}) == 32
    for part in parts:
        node.give_back(part)
    assert (node.open, node.count(needs, 0)) == (2, 32)


def test_what_the_node_does_not_have_is_never_held() -> None:
    node = room()
    assert node.may_hold(Needs(cpus=8, memory=32 * GiB, gpus=4, disk=100 * GiB))
    assert not any(map(node.may_hold, (Needs(cpus=9), Needs(memory=33 * GiB), Needs(gpus=5), Needs(disk=1 << 40))))


def test_reserved_room_is_kept_from_everything_else() -> None:
    node, needs = room(), Needs(cpus=5, memory=GiB)
    in_use = [node.free.get_nowait() for _ in range(4)]
    assert node.take(needs, in_slots=4) is None
    node.reserve(needs)
    assert (node.open, node.offered) == (4, 1)
    small = Needs(cpus=1, memory=GiB)
    assert node.count(small, in_slots=0) == 3
    for children in in_use[:2]:
        node.free.put_nowait(children)
    assert node.take(small, in_slots=2) is None
    assert not node.has_reserved(needs, in_slots=2)
    node.free.put_nowait(in_use[2])
    part = node.take(needs, in_slots=1, reserved=True)
    assert part is not None
    node.reserve(None)
    assert (node.open, node.offered) == (1, 1)
    assert taken(node, small, in_slots=1).size.cpus == 1
