"""The months of jobs, by which their rows are partitioned (migration 0012): ids are UUIDv7, so they tell the time.

A session that plans each time plans a statement that names the months of its jobs for these alone. Otherwise the
planner looks at every partition, which costs as much again as a claim. A plan that is kept finds them by the ids.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

# The months are named this often, by `>= ANY($n) AND … < ANY($m)`. Of a table without statistics the planner believes
# that one such condition holds for a third of the rows, and might read a month by it; of one among three, for two
# thirds. Each time costs the planner some 10 us for each partitioned table of the statement.
_TIMES = 3
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)

Bounds = tuple[list[UUID], list[UUID]]
ALL: Bounds = ([_FIRST] * _TIMES, [_LAST] * _TIMES)


def months_of(job_ids: Iterable[UUID]) -> Bounds:
    """Bounds between which the ids lie: the least of the first one's month, and the least after the last one's."""
    ids = sorted(job_ids)
    if not ids:
        return [_FIRST] * _TIMES, [_FIRST] * _TIMES
    try:
        first, last = _month(ids[0]), _month(ids[-1], 1)
    except (ValueError, OverflowError):  # not a UUIDv7 of our times
        return ALL
    return [first] * _TIMES, [last] * _TIMES


def _month(job_id: UUID, later: int = 0) -> UUID:
    at = datetime.fromtimestamp((job_id.int >> 80) / 1000, UTC)
    years, month = divmod(at.month - 1 + later, 12)
    return UUID(int=int(datetime(at.year + years, month + 1, 1, tzinfo=UTC).timestamp() * 1000) << 80)
