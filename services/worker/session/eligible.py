"""Which bundles run in sessions; the tasks of the others run one at a time, each by itself."""

import sys
from collections.abc import Sequence

from services.engine.attempt import ClaimedTask, StageWork
from services.platform import tracing
from services.worker.task.values import is_by_value


def runs_in_session(stage: StageWork, tasks: Sequence[ClaimedTask]) -> bool:
    """Whether tasks of the stage can: functions that get values and have no files, where the kernel is Linux.

    Spans are of single attempts, so where they are recorded each attempt goes its own way.
    """
    return (
        sys.platform == "linux"
        and stage.spec.function is not None
        and not stage.fan_out
        and not stage.inputs
        and not tracing.recording()
        and all(is_by_value(task, stage) for task in tasks)
    )
