"""The grid of the storm: Postgres, the emulator and the proxies in front of them, and the services as processes."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.postgres import EmbeddedPostgres
from services.engine.migrate import migrate
from services.platform.aws import Aws, connect_aws
from services.platform.database import UNAVAILABLE, Connection, Database, connect_database
from services.platform.settings import Settings
from tests.conftest import free_port
from tests.forks import Fork
from tests.grid import PROCESSORS
from tests.roles import as_role, let_in
from tests.servers import spare_the_disk
from tests.storm.aws_proxy import AwsProxy
from tests.storm.database_proxy import DatabaseProxy
from tests.storm.journal import Journal
from tests.storm.plan import Plan
from tests.storm.receiver import Receiver

_RESTART_SECONDS = 0.1
_STOP_SECONDS = 15.0
# Drained, killed, told to stop before it listened, on a node that is out of service, or without a scratch directory.
_EXPECTED_ENDS = (0, -signal.SIGKILL, -signal.SIGTERM, os.EX_TEMPFAIL, 2)

T = TypeVar("T")
MakeProxy = Callable[[str, Journal], AwsProxy]

QUEUES = ("storm-default", "storm-default-dead-letter")


class Service:
    """A process that is started again whenever it ends. `ends` counts its exit codes."""

    def __init__(self, name: str, module: str, environment: dict[str, str], scratch: Path, log: Path) -> None:
        self.name = name
        self.scratch = scratch
        self.ends: Counter[int] = Counter()
        self.stopped_in_order = False
        self.process: Fork | None = None
        self._module = module
        self._environment = environment | {"PIECEWORK_SCRATCH": str(scratch)}
        self._log = log

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    async def run(self) -> None:
        """Until cancelled; then it is stopped in good order."""
        try:
            while True:
                self.process = Fork(self._module, env=self._environment, log=self._log)
                self.ends[await self.process.ended()] += 1
                await asyncio.sleep(_RESTART_SECONDS)
        finally:
            if self.process is not None:
                self.stopped_in_order = await self._stop(self.process) in (0, -signal.SIGTERM)

    async def _stop(self, process: Fork) -> int:
        process.terminate()
        try:
            return await asyncio.wait_for(process.ended(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            return await process.ended()

    @property
    def crashes(self) -> list[int]:
        """Exit codes that nobody asked for."""
        return [code for code in self.ends if code not in _EXPECTED_ENDS]


@dataclass(slots=True)
class StormGrid:
    """`database` and `aws` go past the proxies: the storm's own eyes and hands."""

    settings: Settings
    postgres: EmbeddedPostgres
    database_proxy: DatabaseProxy
    aws_proxy: AwsProxy
    receiver: Receiver
    database: Database
    aws: Aws
    queue_url: str
    dead_letter_url: str
    workers: list[Service]
    schedulers: list[Service]

    @property
    def services(self) -> list[Service]:
        return [*self.schedulers, *self.workers]

    async def ask(self, step: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a step on a connection; again, if the database has just been killed."""
        while True:
            try:
                async with self.database.acquire() as connection:
                    return await step(connection)
            except UNAVAILABLE:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running_grid(
    plan: Plan, data: Path, logs: Path, journal: Journal, make_proxy: MakeProxy
) -> AsyncIterator[StormGrid]:
    """Everything is up and has its proxies, but no service runs yet."""
    os.environ.update(AWS_ENVIRONMENT)
    postgres = EmbeddedPostgres(data / "postgres", log=logs / "postgres.log")
    emulator = Emulator(free_port(), log=logs / "emulator.log")
    try:
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(emulator.start))
        url = await postgres.create_database("piecework")
        await migrate(url)
        await spare_the_disk(postgres)
        async with _proxies(url, make_proxy(emulator.url, journal), journal) as (database_proxy, aws_proxy, receiver):
            settings = plan.settings(database_proxy.url, aws_proxy.url)
            direct = settings.model_copy(update={"database_url": url, "aws_endpoint_url": emulator.url})
            async with connect_aws(direct) as aws, await connect_database(url) as database:
                async with database.acquire() as connection:
                    await let_in(connection, url)
                await aws.s3.create_bucket(Bucket=settings.bucket)
                queue, dead = [(await aws.sqs.create_queue(QueueName=name))["QueueUrl"] for name in QUEUES]
                workers = _services("worker", plan.workers, settings, aws_proxy, data, logs, **plan.worker_settings)
                schedulers = _services("scheduler", plan.schedulers, settings, aws_proxy, data, logs)
                yield StormGrid(
                    settings,
                    postgres,
                    database_proxy,
                    aws_proxy,
                    receiver,
                    database,
                    aws,
                    queue,
                    dead,
                    workers,
                    schedulers,
                )
    finally:
        await asyncio.gather(asyncio.to_thread(emulator.stop), asyncio.to_thread(postgres.stop))


@asynccontextmanager
async def _proxies(
    database_url: str, aws_proxy: AwsProxy, journal: Journal
) -> AsyncIterator[tuple[DatabaseProxy, AwsProxy, Receiver]]:
    database_proxy, receiver = DatabaseProxy(database_url), Receiver(journal)
    await asyncio.gather(database_proxy.start(), aws_proxy.start(), receiver.start())
    try:
        yield database_proxy, aws_proxy, receiver
    finally:
        database_proxy.stop()
        await asyncio.gather(aws_proxy.stop(), receiver.stop())


def _services(
    kind: str, count: int, settings: Settings, aws_proxy: AwsProxy, data: Path, logs: Path, **more: Any
) -> list[Service]:
    values = settings.model_dump(exclude_none=True) | more
    values |= {"processor_path": PROCESSORS}
    values |= {"database_url": as_role(settings.database_url, kind)}
    environment = os.environ | {f"PIECEWORK_{name.upper()}": str(value) for name, value in values.items()}
    environment |= aws_proxy.credentials(kind)
    names = [f"{kind}-{number}" for number in range(1, count + 1)]
    module = f"services.{kind}"
    return [Service(name, module, environment, data / "scratch" / name, logs / f"{name}.log") for name in names]
