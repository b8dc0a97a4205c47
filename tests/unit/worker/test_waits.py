"""How long claimed tasks may wait for a slot before they are left to other workers."""

import pytest

from services.worker.node.slots import wait_seconds_max


@pytest.mark.parametrize(
    ("task_seconds", "tasks", "seconds"),
    [
        (None, 8, 2.5),  # as five bundles of half a second
        (0.01, 8, 2.5),
        (0.5, 8, 20.0),  # it holds more work where many jobs share few slots
        (60.0, 8, 25.0),  # nobody has meant it to
    ],
)
def test_tasks_wait_as_long_as_their_bundle_may_take(task_seconds: float | None, tasks: int, seconds: float) -> None:
    assert wait_seconds_max(0.5, task_seconds, tasks) == seconds
