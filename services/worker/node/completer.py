"""Reports ended attempts to the database, many per transaction, and retries until it has them."""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import structlog

from services.engine import lost_outputs, transitions
from services.engine.attempt import AttemptReport
from services.engine.values import tell_ends
from services.platform.database import UNAVAILABLE, Database
from services.worker.node.bundles import Bundle, Bundles
from services.worker.node.metrics import REPORTS_WAITING, count_attempts
from services.worker.node.outage import Outage, in_time

log = structlog.get_logger()

# For how long reports wait for others: a part of the time that their tasks took, within these bounds.
_GATHER_SECONDS_MIN, _GATHER_SECONDS_MAX = 0.005, 0.05
_GATHER_SHARE = 0.2
_ATTEMPTS_MAX = 5000  # in one transaction
_FLUSH_SECONDS = 10.0  # that a transaction may take; twice as long after each one that took longer
_FLUSH_SECONDS_MAX = 60.0

# The database will never accept these values, however often they are sent.
_UNSTORABLE = (ValueError, TypeError, asyncpg.DataError)


@dataclass(frozen=True, slots=True)
class _Report:
    finished: Sequence[AttemptReport]
    bundle_done: UUID | None
    open_job: UUID | None


class Completer:
    """A buffer of reports and the loop that empties it. `backlog` is how many attempts it holds."""

    def __init__(self, database: Database, worker_id: UUID, bundles: Bundles) -> None:
        self.backlog = 0
        self._database = database
        self._worker_id = worker_id
        self._bundles = bundles
        self._reports: deque[_Report] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._outage = Outage("reports to the database")
        self._flushing: Sequence[AttemptReport] = ()

    def report(self, bundle: Bundle, finished: Sequence[AttemptReport]) -> None:
        """Add ended attempts of a bundle; they are ignored if the bundle is no longer held."""
        count_attempts(finished)
        if bundle.bundle_id not in self._bundles:
            return
        done = self._bundles.finish(bundle, len(finished))
        for attempt in finished:
            attempt.ended_at = attempt.ended_at or time.monotonic()
        open_job = bundle.stage.job_id if bundle.stage.is_open else None
        self._reports.append(_Report(finished, bundle.bundle_id if done else None, open_job))
        self.backlog += len(finished)
        REPORTS_WAITING.set(self.backlog)
        self._filled.set()
        self._emptied.clear()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(self._gather_seconds)
            finished, bundles_done, open_jobs = self._take()
            self._flushing = finished
            await self._flush(finished, bundles_done)
            self._flushing = ()
            if open_jobs:
                await self._tell(open_jobs)
            self._bundles.drop(bundles_done)
            self.backlog -= len(finished)
            REPORTS_WAITING.set(self.backlog)
            if not self._reports:
                self._emptied.set()

    async def flushed(self) -> None:
        """Wait until everything is reported."""
        if self.backlog:
            await self._emptied.wait()

    @property
    def _gather_seconds(self) -> float:
        """How long to wait for more reports, which cost little beside these; what ends last waits for none."""
        if not self._bundles.unfinished:
            return 0.0
        run = [attempt.run_seconds for report in self._reports for attempt in report.finished]
        return min(max(_GATHER_SECONDS_MIN, _GATHER_SHARE * sum(run) / max(1, len(run))), _GATHER_SECONDS_MAX)

    @property
    def unreported(self) -> list[AttemptReport]:
        """What the database has not got yet, or has not said that it has."""
        return [*self._flushing, *(attempt for report in self._reports for attempt in report.finished)]

    def _take(self) -> tuple[list[AttemptReport], list[UUID], set[UUID]]:
        """The oldest reports, as many as fit into one transaction, and which open jobs they are of.

        A bundle ends together with its last attempts.
        """
        finished: list[AttemptReport] = []
        bundles_done: list[UUID] = []
        open_jobs: set[UUID] = set()
        while self._reports and len(finished) < _ATTEMPTS_MAX:
            report = self._reports.popleft()
            finished += report.finished
            if report.bundle_done is not None:
                bundles_done.append(report.bundle_done)
            if report.open_job is not None:
                open_jobs.add(report.open_job)
        if not self._reports:
            self._filled.clear()
        return finished, bundles_done, open_jobs

    async def _tell(self, open_jobs: Collection[UUID]) -> None:
        """Once is enough: whoever is not told looks soon."""
        with suppress(*UNAVAILABLE):
            await in_time(tell_ends(self._database, open_jobs), _FLUSH_SECONDS)

    async def _flush(self, finished: Sequence[AttemptReport], bundles_done: Sequence[UUID]) -> None:
        """Report until the database has the reports; `complete` may be repeated."""
        seconds = _FLUSH_SECONDS
        while True:
            try:
                accepted = await in_time(self._complete(finished, bundles_done), seconds)
            except TimeoutError as error:
                seconds = min(2 * seconds, _FLUSH_SECONDS_MAX)
                await self._database.expire_connections()
                await self._outage.failed(error)
            except _UNSTORABLE as error:
                return await self._flush_apart(finished, bundles_done, error)
            except Exception as error:
                await self._outage.failed(error)
            else:
                self._outage.passed()
                log.debug("completed", attempts=len(finished), accepted=accepted)
                return None

    async def _complete(self, finished: Sequence[AttemptReport], bundles_done: Sequence[UUID]) -> int:
        for report in finished:
            if report.lost:
                await lost_outputs.lose_inputs(self._database, self._worker_id, report)
        return await transitions.complete(self._database, self._worker_id, finished, bundles_done)

    async def _flush_apart(
        self, finished: Sequence[AttemptReport], bundles_done: Sequence[UUID], error: Exception
    ) -> None:
        """One of the attempts holds a value that can't be stored: find it by halves and report it as failed."""
        if len(finished) > 1:
            half = len(finished) // 2
            await self._flush(finished[:half], [])
            await self._flush(finished[half:], bundles_done)
            return
        (bad,) = finished
        log.error("unstorable report", job=str(bad.job_id), stage=bad.stage, index=bad.index, error=repr(error))
        failed = AttemptReport(
            bad.job_id, bad.stage, bad.index, bad.attempt, "failed", bad.run_seconds, retryable=False
        )
        failed.error = {"type": "output_invalid", "message": f"the result can't be stored: {str(error)!a}"}
        await self._flush([failed], bundles_done)
