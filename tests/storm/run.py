"""A storm from its first process to its last, and what came of it."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tests.storm import orders
from tests.storm.aws_proxy import AwsProxy
from tests.storm.chaos import Chaos
from tests.storm.evidence import Evidence, gather
from tests.storm.faults import DECK
from tests.storm.grid import MakeProxy, StormGrid, running_grid
from tests.storm.journal import Journal
from tests.storm.plan import Plan
from tests.storm.truth import Check, check_all
from tests.storm.work import Work, make_works

_POLL_SECONDS = 0.25
_WEBHOOK_SECONDS = 90.0

_ALL_ENDED = "SELECT NOT EXISTS (SELECT FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled'))"
_HASTEN = """
    WITH open AS (UPDATE webhook_endpoints SET paused_until = now() WHERE paused_until > now())
    UPDATE webhook_deliveries SET next_try_at = now() WHERE state = 'pending'"""
_DELIVERIES_PENDING = """
    SELECT EXISTS (SELECT FROM webhook_deliveries JOIN webhook_endpoints USING (endpoint_id)
        WHERE state = 'pending' AND url = $1)"""

Progress = Callable[[float, int, int], None]  # seconds, tasks that have ended, faults


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the report tells of."""

    plan: Plan
    seconds: float
    journal: Journal
    outages: list[float]
    evidence: Evidence
    checks: list[Check]

    @property
    def is_right(self) -> bool:
        return not any(check.wrong for check in self.checks)


async def run_storm(plan: Plan, logs: Path, progress: Progress, make_proxy: MakeProxy = AwsProxy) -> Outcome:
    """Run the grid in the storm until all jobs have ended; its logs and the storm's journal are put into `logs`."""
    journal = _open_journal(logs)
    try:
        with _data_directory() as data:
            async with running_grid(plan, data, logs, journal, make_proxy) as grid:
                return await _run(plan, grid, journal, progress)
    finally:
        journal.close()


def _open_journal(logs: Path) -> Journal:
    """In a directory that the last run's logs leave."""
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    return Journal(logs / "storm.jsonl")


@contextmanager
def _data_directory() -> Iterator[Path]:
    """Of the database and of running tasks, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="piecework-storm-", ignore_cleanup_errors=True) as data:
        Path(data).chmod(0o711)  # if we are root, Postgres runs as another user
        yield Path(data)


async def _run(plan: Plan, grid: StormGrid, journal: Journal, progress: Progress) -> Outcome:
    works = make_works(plan, grid.settings.bucket)
    chaos = Chaos(grid, plan, journal)
    services = [asyncio.create_task(service.run()) for service in grid.services]
    journal.begin()
    try:
        ids = await orders.submit(grid, works)
        claimed = await _weather(plan, grid, chaos, journal, works, ids, progress)
        seconds = journal.seconds
        await _deliver_webhooks(grid, journal)
    finally:
        for service in services:
            service.cancel()
        await asyncio.gather(*services, return_exceptions=True)
    evidence = await gather(grid, {ids[work.name]: work for work in works})
    checks = [*check_all(evidence), *_check_run(grid, journal, claimed)]
    return Outcome(plan, seconds, journal, chaos.outages, evidence, checks)


async def _weather(
    plan: Plan,
    grid: StormGrid,
    chaos: Chaos,
    journal: Journal,
    works: list[Work],
    ids: dict[str, UUID],
    progress: Progress,
) -> int:
    """The storm over a grid at work, and the user's orders in it, until all jobs have ended.

    Returns how many tasks of the paused job were claimed in its pause.
    """
    await orders.until_at_work(grid)
    counts = {work.name: sum(work.tasks) for work in works}
    # Resumed when every kind of fault has been dealt: so there is work left for them to strike.
    pausing = orders.pause_and_resume(grid, journal, ids["concat"], counts["concat"] // 4, chaos.first_deck_dealt)
    cancelling = orders.cancel(grid, journal, ids["cancelled"], counts["cancelled"] // 2)
    claimed = 0
    try:
        async with asyncio.timeout(plan.patience_seconds) as patience, asyncio.TaskGroup() as group:
            group.create_task(chaos.blow())
            group.create_task(cancelling)
            paused = group.create_task(pausing)
            seen = -1
            while not await grid.ask(lambda connection: connection.fetchval(_ALL_ENDED)):
                ended = await orders.tasks_ended(grid, *ids.values())
                if ended != seen:
                    patience.reschedule(asyncio.get_running_loop().time() + plan.patience_seconds)
                seen = ended
                progress(journal.seconds, ended, journal.dealt.total())
                await asyncio.sleep(_POLL_SECONDS)
            chaos.calm()
            claimed = await paused
    except TimeoutError:
        journal.note("given up")
    return claimed


async def _deliver_webhooks(grid: StormGrid, journal: Journal) -> None:
    """In the calm; what waits for its next try, or for a scheduler that died in the middle, is made due at once.

    So is an endpoint that has refused so much that it is paused for longer than anybody waits here.
    """
    try:
        async with asyncio.timeout(_WEBHOOK_SECONDS):
            pending = True
            while pending:
                await grid.ask(lambda connection: connection.execute(_HASTEN))
                await asyncio.sleep(_POLL_SECONDS)
                pending = await grid.ask(lambda connection: connection.fetchval(_DELIVERIES_PENDING, grid.receiver.url))
    except TimeoutError:
        journal.note("webhooks given up")


def _check_run(grid: StormGrid, journal: Journal, claimed: int) -> list[Check]:
    """What only this process knows."""
    pause = Check("tasks claimed while their job was paused")
    pause.expect(claimed == 0, f"{claimed} tasks")
    crashes, hangs = Check("services that ended by themselves"), Check("services that did not stop when told")
    for service in grid.services:
        crashes.expect(not service.crashes, f"{service.name}: exit codes {service.crashes}")
        hangs.expect(service.stopped_in_order, service.name)
    forged = Check("webhooks with a wrong signature")
    forged.expect(grid.receiver.forged == 0, f"{grid.receiver.forged} webhooks")
    silent = Check("webhooks to an endpoint that never answers")
    silent.expect(grid.receiver.unanswered > 0, "it got none")
    missing = Check("kinds of faults that struck nothing")
    for kind in DECK:
        missing.expect(journal.struck[kind] > 0, kind)
    return [pause, crashes, hangs, forged, silent, missing]
