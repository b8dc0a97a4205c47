"""How much work a worker asks for: never idle, never more than it can soon start."""

import pytest

from services.worker.receiver import messages_wanted


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
def test_messages_wanted(case: dict[str, float], messages: int) -> None:
    defaults = {"busy": 0, "waiting": 0, "task_seconds": 0.0, "longest_running_seconds": 0.0, "bundle_tasks": 1.0}
    assert messages_wanted(**(defaults | case)) == messages  # type: ignore[arg-type]
