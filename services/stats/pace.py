"""How fast a stage or job goes, and when it will be done."""

from collections.abc import Sequence
from datetime import datetime


def succeeded_lately(succeeded: int, rolled_up: int, rolled_up_lately: int) -> int:
    """Tasks that have succeeded since the recent minutes began, from the live counter and the roll-up.

    Exact whatever the roll-up's lag: what has succeeded but is not rolled up yet has succeeded in this time.
    """
    return max(rolled_up_lately + succeeded - rolled_up, 0)


def seconds_lately(started_at: datetime | None, recent_from: datetime, now: datetime) -> float:
    """How long the recent minutes have lasted for what started at `started_at`: all its life while it is young."""
    return (now - max(started_at, recent_from)).total_seconds() if started_at else 0.0


def rate(tasks: int, seconds: float) -> float:
    """Tasks per second; 0 when nothing has started."""
    return tasks / seconds if seconds > 0 else 0.0


def seconds_left(
    remaining: Sequence[int], lately: Sequence[int], means: Sequence[float | None], seconds: float
) -> float | None:
    """The time that the remaining tasks of all stages take at the pace of the last `seconds`; None if it is 0.

    `lately` is what succeeded in that time. A task weighs its stage's mean run time, so that a thousand quick tasks
    done do not promise a thousand slow ones as quickly; a stage of which nothing is known weighs what others do.
    """
    if not sum(remaining):
        return 0.0
    known = [mean for mean in means if mean]
    usual = sum(known) / len(known) if known else 1.0
    weights = [mean or usual for mean in means]
    done = sum(tasks * weight for tasks, weight in zip(lately, weights, strict=True))
    if not done or seconds <= 0:
        return None
    return seconds * sum(tasks * weight for tasks, weight in zip(remaining, weights, strict=True)) / done
