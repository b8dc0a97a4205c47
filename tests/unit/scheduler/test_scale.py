"""How many nodes a backlog is worth."""

import pytest

from services.scheduler.loops.scale import Backlog, wanted_capacity


@pytest.mark.parametrize(
    ("tasks", "seconds", "nodes"),
    [
        (0, 0.0, 1),  # the minimum
        (1, 5.0, 1),
        (4, 0.0, 1),
        (100, 120.0, 1),  # 2 slots * 60 s
        (100, 121.0, 2),
        (100, 600.0, 5),
        (100, 1e9, 8),  # the maximum
        (3, 1e9, 2),  # no more slots than tasks
    ],
)
def test_nodes_for_a_minute_of_work_within_bounds(tasks: int, seconds: float, nodes: int) -> None:
    pool = {"slots": 2, "capacity_min": 1, "capacity_max": 8}

    assert wanted_capacity(pool, [Backlog(tasks, seconds, per_node=2)], 60.0) == nodes


def test_an_empty_pool_gets_its_first_node_for_any_task_at_all() -> None:
    pool = {"slots": 2, "capacity_min": 0, "capacity_max": 8}

    assert wanted_capacity(pool, [], 60.0) == 0
    assert wanted_capacity(pool, [Backlog(10, 0.0, per_node=2)], 60.0) == 1  # no-ops, measured as 0 s


def test_tasks_of_each_size_get_the_nodes_that_hold_them() -> None:
    pool = {"slots": 2, "capacity_min": 0, "capacity_max": 100}

    assert wanted_capacity(pool, [Backlog(100, 600.0, per_node=2), Backlog(6, 3600.0, per_node=1)], 60.0) == 56
    assert wanted_capacity(pool, [Backlog(1, 1.0, per_node=16), Backlog(1, 1.0, per_node=16)], 60.0) == 1
