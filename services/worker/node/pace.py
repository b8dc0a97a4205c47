"""How long tasks take on this worker, learned stage by stage: stages may differ a lot."""

from uuid import UUID

StageKey = tuple[UUID, int]  # job_id, stage

_SMOOTHING = 0.2  # weight of the newest task in the moving average
_STAGES_MAX = 1000


class Pace:
    """Moving averages of task seconds by stage."""

    def __init__(self) -> None:
        self._seconds: dict[StageKey, float] = {}

    def learn(self, stage: StageKey, seconds: float, tasks: int) -> None:
        """Note that `tasks` tasks of the stage took `seconds` in total."""
        before = self._seconds.pop(stage, None)
        if len(self._seconds) >= _STAGES_MAX:
            del self._seconds[next(iter(self._seconds))]
        mean = seconds / tasks
        self._seconds[stage] = mean if before is None else before + (1 - (1 - _SMOOTHING) ** tasks) * (mean - before)

    def seconds_of(self, stage: StageKey | None) -> float | None:
        """The mean seconds of a task; None until a task of the stage has ended here."""
        return None if stage is None else self._seconds.get(stage)
