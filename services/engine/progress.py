"""The progress of a job's stages, from their counters; the API and the stats service report the same numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from services.contract.states import TASK_STATES


class Progress(BaseModel):
    """A stage's tasks by state, exact at the moment of the answer."""

    waiting: int = Field(
        description="tasks that are not created yet: they are as others start, or as those of the stage before succeed"
    )
    ready: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


def is_slowed(stage: Mapping[str, Any]) -> bool:
    """Whether a stage has used up its retry budget. If so, only a few of its tasks run at a time.

    `stage` has max_attempts and retry_budget, and attempts and succeeded of its stage_sums. Each success earns one
    failure, so a stage that recovers soon runs at full speed again (a token bucket of retries, as in the standard
    retry mode of the AWS SDKs).
    """
    failures_allowed = stage["succeeded"] + stage["retry_budget"]
    return bool(stage["max_attempts"] > 1 and stage["attempts"] - stage["succeeded"] > failures_allowed)


STRAGGLES = 2.0  # times its stage's mean: a task that runs longer than this says nothing about when it will end


def bound_by_oldest(seconds: float, mean: float, oldest: float | None) -> float:
    """A time left that counts on usual tasks, and one that knows the oldest of those that run.

    A straggler is expected to take as long again as it has taken so far: nothing else is known of it.
    """
    return max(seconds, oldest) if oldest is not None and oldest > STRAGGLES * mean else seconds


def seconds_left(stage: Mapping[str, Any], progress: Progress, *, known: bool) -> float | None:
    """How long a stage of a running job will take at the pace of what runs now; None while that can't be told.

    `stage` has its state, the mean run time (`task_seconds`), and how long the oldest task runs (`oldest_seconds`).
    """
    mean = stage["task_seconds"]
    if stage["state"] != "running" or not known or not progress.running or mean is None:
        return None
    waves = 1 + (progress.waiting + progress.ready + progress.queued) / progress.running
    return bound_by_oldest(waves * mean, mean, stage["oldest_seconds"])


def count_progress(stages: Sequence[Mapping[str, Any]]) -> list[Progress]:
    """The progress of a job's stages, in order, from their rows and their stage_sums.

    The tasks that are still to be created count as waiting, if their number is known (`tasks_known`).
    """
    progress: list[Progress] = []
    for stage in stages:
        counts = {name: int(stage[name]) for name in TASK_STATES}
        waiting = 0
        if stage["state"] in ("waiting", "running") and not stage["planned"]:
            waiting = max(0, _tasks_expected(stage, progress[-1] if progress else None) - sum(counts.values()))
        progress.append(Progress(waiting=waiting, **counts))
    return progress


def _tasks_expected(stage: Mapping[str, Any], before: Progress | None) -> int:
    """How many tasks a stage gets if no further task of the previous stage fails."""
    if stage["tasks_expected"] is not None or before is None:
        return int(stage["tasks_expected"] or 0)
    outputs = before.waiting + before.ready + before.queued + before.running + before.succeeded
    match stage["tasks_from"]:
        case "successes" | "outputs":
            return outputs
        case "reduce":
            return sum(reduce_levels(outputs, stage["fan_in"]))
    return 0


def reduce_levels(outputs: int, fan_in: int) -> Iterator[int]:
    """The number of tasks of each level of a reduce; the last level has one."""
    while True:
        outputs = max(1, -(-outputs // fan_in))
        yield outputs
        if outputs == 1:
            return


def tasks_known(stages: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether the number of each stage's tasks is known, by itself or because the previous stage's is.

    While an input of known size is split, the number is estimated.
    """
    known: list[bool] = []
    for stage in stages:
        follows = stage["tasks_from"] in ("successes", "outputs", "reduce")
        known.append(stage["planned"] or stage["tasks_expected"] is not None or (follows and known[-1]))
    return known
