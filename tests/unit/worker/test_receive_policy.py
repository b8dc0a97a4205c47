"""How much work a worker asks for: never idle, never more than it can soon start."""

from uuid import UUID, uuid4

import pytest

from services.contract.message import Message
from services.worker.node.receiver import choose, messages_wanted


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ({"slots": 4}, 4),  # nothing is known yet: one message for each slot
        ({"slots": 40}, 10),  # SQS gives no more at once
        ({"slots": 4, "busy": 3}, 1),
        ({"slots": 4, "busy": 4}, 0),
        ({"slots": 4, "busy": 2, "waiting": 2}, 0),  # what waits will fill the slots
        ({"slots": 4, "bundle_tasks": 3.0}, 2),
        ({"slots": 4, "busy": 4, "task_seconds": 60.0}, 0),  # long tasks are not hoarded
        ({"slots": 4, "busy": 3, "task_seconds": 60.0}, 1),
        ({"slots": 2, "task_seconds": 1e-5, "bundle_tasks": 500.0}, 10),  # no-ops: as much as there is
        ({"slots": 2, "task_seconds": 1e-5, "waiting": 100_000}, 0),  # half a second of work is enough
        ({"slots": 2, "busy": 2, "task_seconds": 0.1, "bundle_tasks": 10.0}, 1),
        ({"slots": 2, "busy": 2, "task_seconds": 0.1, "waiting": 10, "bundle_tasks": 10.0}, 0),
        ({"slots": 2, "busy": 2, "task_seconds": 0.1, "longest_running_seconds": 5.0}, 0),  # tasks have become long
    ],
)
def test_messages_wanted(case: dict[str, float | None], messages: int) -> None:
    defaults = {"busy": 0, "waiting": 0, "task_seconds": None, "longest_running_seconds": 0.0, "bundle_tasks": 1.0}
    assert messages_wanted(**(defaults | case)) == messages  # type: ignore[arg-type]


JOB = UUID(int=7)


def offer(stage: int, count: int = 1) -> Message:
    return Message(uuid4(), JOB, stage, 0, count)


def test_of_long_or_unknown_tasks_no_more_are_claimed_than_slots_are_free() -> None:
    """Also after thousands of short ones of another stage."""
    seconds = {(JOB, 0): 1e-5, (JOB, 1): 8.0}
    long, unknown = [offer(1) for _ in range(4)], [offer(2) for _ in range(4)]

    assert choose(long, slots_free=2, stock_seconds=1.0, seconds_of=seconds.get) == long[:2]
    assert choose(unknown, slots_free=1, stock_seconds=1.0, seconds_of=seconds.get) == unknown[:1]
    assert choose(long + unknown, slots_free=0, stock_seconds=1.0, seconds_of=seconds.get) == []


def test_of_short_tasks_a_stock_is_claimed() -> None:
    seconds = {(JOB, 0): 0.1}
    short = [offer(0, count=3) for _ in range(5)]

    assert choose(short, slots_free=0, stock_seconds=0.5, seconds_of=seconds.get) == short[:2]
    assert choose(short, slots_free=0, stock_seconds=0.0, seconds_of=seconds.get) == []
