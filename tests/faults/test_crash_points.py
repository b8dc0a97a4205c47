"""A scheduler or a worker may die before or after any of its side effects: the job comes to the same.

Undisturbed runs record, through the gate of services.platform.effects, every point at which a process can die. Then a
process dies after each effect by SIGKILL, while a job runs, and another takes its place. What dies just before an
effect leaves the same behind as what dies just after the one before: with PIECEWORK_CRASH_POINTS=every that is walked
too.
"""

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args
from uuid import uuid4

import asyncpg
import pytest

from deploy.local.emulator import Emulator
from deploy.local.postgres import EmbeddedPostgres
from services.platform.aws import connect_aws
from services.platform.database import connect_database
from services.platform.settings import Settings
from tests.conftest import free_port
from tests.faults.mortal import Point, Role
from tests.faults.outcome import Outcome
from tests.faults.receiver import receiving
from tests.faults.standing_grid import JOBS, NeverReached, StandingGrid

RUNS = [(job, role) for job in JOBS for role in get_args(Role)]
GRIDS = len(RUNS)
EVERY = os.environ.get("PIECEWORK_CRASH_POINTS") == "every"

# What else would be cut off, sent or begun again on a busy machine, where all takes longer.
PATIENT = {"lease_seconds": 60.0, "resend_seconds": 60.0, "straggler_seconds": 60.0}


@pytest.fixture
async def grids(
    postgres: EmbeddedPostgres, template: str, emulator: Emulator, tmp_path: Path
) -> AsyncIterator[list[StandingGrid]]:
    """Side by side: a job mostly waits, for a poll or for the lease of a dead worker to end."""
    grids = []
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receiving(free_port()))
        for _ in range(GRIDS):
            name = f"crash-{uuid4().hex}"
            settings = Settings(
                database_url=await postgres.create_database(name, template),
                aws_endpoint_url=emulator.url,
                bucket=name,
                loop_seconds=0.1,
                idle_seconds=1.0,
                lease_seconds=5.0,  # those of the dead end by hand
                heartbeat_seconds=0.2,
                resend_seconds=0.5,
                scale_seconds=0.2,
                losses_max=20,  # on a busy machine a worker may lose its lease by itself
                webhook_private_addresses=True,
            )
            database = await connect_database(settings.database_url)
            stack.push_async_callback(database.close)
            aws = await stack.enter_async_context(connect_aws(settings))
            await aws.s3.create_bucket(Bucket=name)
            (tmp_path / name).mkdir()
            grid = StandingGrid(settings, database, aws, receiver, tmp_path / name)
            stack.callback(grid.kill)
            await grid.prepare()
            grids.append(grid)
        yield grids
    connection = await asyncpg.connect(postgres.url("postgres"))
    for grid in grids:
        await connection.execute(f'DROP DATABASE "{grid.settings.bucket}" WITH (FORCE)')
    await connection.close()


@dataclass(frozen=True)
class Step:
    """A point to die at while a job runs; not `sure`: only some jobs come to it."""

    job: str
    point: Point
    sure: bool


@dataclass
class Walk:
    """The steps still to take, what the jobs come to undisturbed, and the tally."""

    undisturbed: dict[str, Outcome]
    todo: deque[Step]
    deaths: int = 0
    jobs: int = 0
    missed: list[Point] = field(default_factory=list)

    async def go(self, grid: StandingGrid) -> None:
        """Take steps until none is left."""
        while self.todo:
            step = self.todo.popleft()
            try:
                await self._take(step, grid)
            except NeverReached as error:
                if step.sure:
                    raise AssertionError(f"{step.job}: {step.point}: {error}") from None
                self.missed.append(step.point)
            except AssertionError as error:
                raise AssertionError(f"{step.job}: {step.point}: {error}") from error

    async def _take(self, step: Step, grid: StandingGrid) -> None:
        async for outcome in grid.disturbed(step.job, step.point):
            self.jobs += 1
            outcome.assert_like(self.undisturbed[step.job])
        self.deaths += 1


async def record(grid: StandingGrid, job: str, role: Role) -> tuple[Counter[Point], Outcome]:
    """Every point that a process of the role comes to in an undisturbed run, and what the job comes to."""
    mortal, outcome = await grid.undisturbed(job, role)
    return mortal.points(), outcome


async def record_all(grids: list[StandingGrid], **changes: float) -> list[tuple[Counter[Point], Outcome]]:
    """One run on each grid, with changed settings."""
    for grid in grids:
        await grid.restart_with(**changes)
    return await asyncio.gather(*(record(grid, *run) for grid, run in zip(grids, RUNS, strict=True)))


async def plan_walk(grids: list[StandingGrid]) -> Walk:
    """Record every job twice, first with patience: what happens in one of them only is a matter of time or chance.

    What happens in one job need not be walked in the other. If every point is walked, what happens more often is walked
    twice, the second time when work is under way.
    """
    quick = {name: getattr(grids[0].settings, name) for name in PATIENT}
    first, second = await record_all(grids, **PATIENT), await record_all(grids, **quick)
    walk = Walk({}, deque())
    walked: set[tuple[Role, str, str]] = set()
    for (job, role), (points, outcome), (points_again, same) in zip(RUNS, first, second, strict=True):
        same.assert_like(walk.undisturbed.setdefault(job, outcome))
        new = [
            point
            for point in points | points_again
            if (role, point.kind, point.name) not in walked and (EVERY or point.moment == "after")
        ]
        walked |= {(role, point.kind, point.name) for point in new}
        for point in sorted(new):
            count = min(points[point], points_again[point])
            walk.todo.append(Step(job, point, sure=count > 0))
            if EVERY and count > 1 and point.moment == "after":
                walk.todo.append(Step(job, replace(point, occurrence=1 + min(count, 6) // 2), sure=True))
    return walk


@pytest.mark.timeout(1200)
async def test_a_process_may_die_at_any_point(grids: list[StandingGrid], capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    walk = await plan_walk(grids)
    async with asyncio.TaskGroup() as group:
        for grid in grids:
            group.create_task(walk.go(grid))
    with capsys.disabled():
        print(f"\n{walk.deaths} crash points walked in {walk.jobs} jobs and {time.monotonic() - began:.0f} s")
        for point in walk.missed:
            print(f"met by chance only, and not this time: {point}")
    assert walk.deaths > 60
