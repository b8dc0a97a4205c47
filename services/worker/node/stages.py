"""What the worker must know about its stages; the database is asked once per stage, or until that is planned."""

from uuid import UUID

from services.engine.attempt import StageWork
from services.engine.stages import load_stage
from services.platform.database import Database

_STAGES_MAX = 1000


class Stages:
    """A cache of StageWork, which never changes once its array is known; after a retry, its revision is another."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[UUID, int, int], StageWork] = {}

    async def get(self, job_id: UUID, stage: int, revision: int = 0) -> StageWork:
        """Raises StageGone and StageUnreadable."""
        key = (job_id, stage, revision)
        if (known := self._known.get(key)) is not None:
            return known
        work = await load_stage(self._database, job_id, stage)
        if work.array is not None:
            if len(self._known) >= _STAGES_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = work
        return work
