"""The progress of a job's stages, from their counters: the API and the stats service tell the same numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

COUNTS = ("ready", "queued", "running", "succeeded", "failed", "cancelled")

# SQL: the sums of a stage's counters, by the names of COUNTS; `s` is the row of stages.
SUM_COUNTERS = f"""
    SELECT {", ".join(f"coalesce(sum({name}), 0)::bigint AS {name}" for name in COUNTS)}
    FROM stage_counters AS sc WHERE sc.job_id = s.job_id AND sc.stage = s.stage"""


class Progress(BaseModel):
    """A stage's tasks by state, exact at the moment of the answer."""

    waiting: int = Field(description="tasks that will come when those of the stage before have succeeded")
    ready: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


def count_progress(stages: Sequence[Mapping[str, Any]]) -> list[Progress]:
    """The progress of a job's stages, in order, from their counters' sums, `kind`, `state` and `chains`.

    A chained stage still waits for every task of the stage before that has not ended; a reduce is one task to come.
    """
    progress: list[Progress] = []
    for number, stage in enumerate(stages):
        counts = {name: int(stage[name]) for name in COUNTS}
        before = progress[number - 1] if number and stages[number - 1]["chains"] else None
        if before is not None:
            waiting = before.waiting + before.ready + before.queued + before.running
        elif stage["kind"] == "reduce" and stage["state"] == "waiting":
            waiting = 1
        else:
            waiting = 0
        progress.append(Progress(waiting=waiting, **counts))
    return progress
