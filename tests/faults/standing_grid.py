"""A grid that stands for many jobs, one at a time, with one scheduler and one worker, which may be told to die."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from services.engine.jobs import notify_jobs
from services.engine.pools import register_pool
from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import WEBHOOKS_CHANNEL, Database, new_id, notify
from services.platform.settings import Settings
from tests.faults.mortal import PART_BYTES_MIN, Mortal, Point, Role
from tests.faults.outcome import Outcome, read_outcome
from tests.faults.receiver import SECRET, Receiver
from tests.grid import PROCESSORS
from tests.groups import create_group
from tests.invariants import TERMINAL
from tests.until import until

SECONDS_MAX = 120.0  # from a job's submission to its webhook: a few, but the machine may be busy
POLL_SECONDS = 0.05
JOBS_MAX = 10  # until one is undisturbed, or a process has come to its point

_OBJECTS = {
    "words.txt": b"one 1\ntwo 2\na broken line\none 4\nfour 5\ntwo 6\n",
    # Halves of it are copied inside S3 by the merge, but for what fills up the small one's part.
    "copies/large": bytes(range(256)) * (11 * PART_BYTES_MIN // 5 // 256),
    "copies/a small one": b"put before the large one through the scheduler's memory\n",
}
_RETRY = {"backoff_seconds": 0.05}
JOBS: dict[str, dict[str, Any]] = {
    # By a schedule. Every other task of the second stage and of the reduce, which has two levels, fails once.
    "words": {
        "input": {"type": "lines", "uri": "s3://BUCKET/words.txt", "part_bytes": 17},
        "stages": [{"processor": "clean", "retry": _RETRY}, {"processor": "add-up", "retry": _RETRY}],
        "merge": {"type": "reduce", "processor": "add-up", "fan_in": 2},
        "output_queue": "QUEUE",
    },
    # For a time long past, so that the clock starts it. Each object is cut in two, which are copied when all are there.
    "copies": {
        "input": {"type": "objects", "prefix": "s3://BUCKET/copies/"},
        "stages": [{"processor": "cut", "fan_out": True, "retry": _RETRY}, {"processor": "copy", "retry": _RETRY}],
        "merge": {"type": "concat"},
        "run_at": "2020-01-01T00:00:00Z",
    },
}
_PROCESSORS = {
    "clean": ProcessorSpec(records="words:clean"),
    "add-up": ProcessorSpec(callable="words:add_up_at_second_try", output="sums.jsonl"),
    "cut": ProcessorSpec(callable="words:cut", output_directory=True),
    "copy": ProcessorSpec(builtin="copy"),
}


class NeverReached(AssertionError):
    """No process has come to its point, job after job."""


@dataclass
class StandingGrid:
    """On a database and a bucket of its own; the bucket's name is the queue's and the group's too."""

    settings: Settings
    database: Database
    aws: Aws
    receiver: Receiver
    directory: Path
    processes: dict[Role, Mortal] = field(default_factory=dict)
    _started: int = 0

    async def prepare(self) -> None:
        """The pool with its queues and its group, the processors, the raw data, the schedule and the webhook."""
        name = self.settings.bucket
        names = (name, f"{name}-dead", f"{name}-told")
        queue, dead, self._told_url = [(await self.aws.sqs.create_queue(QueueName=q))["QueueUrl"] for q in names]
        await create_group(self.aws, name, maximum=1)
        for key, body in _OBJECTS.items():
            await self.aws.s3.put_object(Bucket=name, Key=key, Body=body)
        self._schedule_id = new_id()
        async with self.database.acquire() as connection, connection.transaction():
            await register_pool(connection, "default", queue_url=queue, dead_letter_url=dead, group_name=name, slots=1)
            await connection.execute("UPDATE pools SET capacity_max = 2")
            for processor, spec in _PROCESSORS.items():
                await register_processor(connection, processor, spec)
            await connection.execute(
                "INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job) "
                "VALUES ($1, 'words', '0 0 29 2 *', 'UTC', 'run_once', $2)",
                self._schedule_id,
                self._spec("words").model_dump(mode="json"),
            )
            await connection.execute(
                "INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, $2, $3)",
                new_id(),
                self.receiver.url,
                SECRET,
            )

    async def undisturbed(self, job: str, role: Role) -> tuple[Mortal, Outcome]:
        """A job of which nothing was cut off, and a process of the role, from its start to its end in good order."""
        for _ in range(JOBS_MAX):  # on a busy machine a worker may lose its lease by itself
            await self._retire(role)
            submitted = await self._submit(job, role)
            mortal = self._start(role)
            job_id = await self._ended(job, submitted, mortal)
            await self._retire(role)
            outcome = await self._outcome(job_id)
            if outcome.undisturbed:
                return mortal, outcome
        raise AssertionError(f"each of {JOBS_MAX} jobs was disturbed")

    async def disturbed(self, job: str, point: Point) -> AsyncIterator[Outcome]:
        """One job after the other, until a process has died at the point; another takes its place at once.

        The first that is to die is the one that stands. If it passes the point by, and does not come to it when it is
        ended in good order either, it is for new ones from their start on. Raises NeverReached.
        """
        for _ in range(JOBS_MAX):
            standing = self.processes.get(point.role)
            if standing is not None:
                standing.doom(point)
            submitted = await self._submit(job, point.role)
            mortal = standing or self._start(point.role, point)
            job_id = await self._ended(job, submitted, mortal)
            if self.processes[point.role] is mortal:  # it lives, or has died just when the job was over
                await self._retire(point.role)
            yield await self._outcome(job_id)
            if mortal.killed_itself:
                return
        raise NeverReached(f"{JOBS_MAX} jobs have passed it by")

    async def restart_with(self, **changes: float) -> None:
        """End what runs; what starts from now on has changed settings."""
        for role in list(self.processes):
            await self._retire(role)
        self.settings = self.settings.model_copy(update=changes)

    def kill(self) -> None:
        """Everything that runs, at once."""
        for mortal in self.processes.values():
            mortal.kill()

    def _spec(self, job: str) -> JobSpec:
        return JobSpec.model_validate_json(
            json.dumps(JOBS[job]).replace("BUCKET", self.settings.bucket).replace("QUEUE", self._told_url)
        )

    def _start(self, role: Role, point: Point | None = None) -> Mortal:
        self._started += 1
        values = self.settings.model_dump(exclude_none=True)
        if role == "worker":
            values |= {
                "processor_path": PROCESSORS,
                "scratch": self.directory / "scratch",
                "cache": self.directory / "cache",
                "receive_wait_seconds": 1,
            }
            values |= {"slots": 1, "instance_id": f"i-{self._started:017x}"}
        environment = {f"PIECEWORK_{name.upper()}": str(value) for name, value in values.items()}
        mortal = Mortal(role, environment, self.directory / f"{self._started:04d}-{role}", point)
        self.processes[role] = mortal
        return mortal

    async def _retire(self, role: Role) -> None:
        """End the role's process, if any, in good order, a worker by the grid's; it may yet come to its point."""
        mortal = self.processes.pop(role, None)
        if mortal is None:
            return
        if role == "scheduler":
            mortal.terminate()

        async def gone() -> bool:
            drain = "UPDATE workers SET state = 'draining' WHERE pid = $1 AND state = 'active'"
            await self.database.execute(drain, mortal.pid)  # again if it has lost its lease and come back as another
            return mortal.exit_code is not None

        await self._until(gone, mortal)
        in_good_order = 71 if role == "worker" else 0  # the emulator has none of the instances that workers would end
        assert mortal.exit_code == in_good_order or mortal.killed_itself, mortal.log.read_text()

    async def _submit(self, job: str, role: Role) -> Any:
        """With a process of the other role. Returns what tells the job: when its schedule is due, or its id."""
        other: Role = "worker" if role == "scheduler" else "scheduler"
        if other not in self.processes:
            self._start(other)
        await self.aws.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=self.settings.bucket, MinSize=0, MaxSize=1, DesiredCapacity=0
        )
        async with self.database.acquire() as connection, connection.transaction():
            if job == "words":
                await notify_jobs(connection)
                return await connection.fetchval(
                    "UPDATE schedules SET next_run_at = now() WHERE schedule_id = $1 RETURNING now()", self._schedule_id
                )
            return await submit_job(connection, self._spec(job), settings=self.settings)

    async def _ended(self, job: str, submitted: Any, mortal: Mortal) -> UUID:
        """Wait until the job has ended and all have been told of it; replace the process as soon as it has died."""
        column = "run_at" if job == "words" else "job_id"

        async def over() -> UUID | None:
            if mortal.killed_itself and self.processes[mortal.role] is mortal:
                await self._let_leases_end(mortal)
                self._start(mortal.role)
            jobs = await self.database.fetch(f"SELECT job_id, state FROM jobs WHERE {column} = $1", submitted)
            assert len(jobs) <= 1, "the schedule has run twice"
            if not jobs or jobs[0]["state"] not in TERMINAL:
                return None
            job_id: UUID = jobs[0]["job_id"]
            delivery = await self._delivery(job_id)
            if delivery["state"] != "delivered" and mortal.killed_itself:
                await self._let_a_minute_pass(delivery["delivery_id"])
            untold = "SELECT EXISTS (SELECT FROM queue_messages WHERE job_id = $1)"
            told = delivery["state"] == "delivered" and not await self.database.fetchval(untold, job_id)
            return job_id if told else None

        return await self._until(over, mortal)  # type: ignore[no-any-return]

    async def _delivery(self, job_id: UUID) -> Any:
        """The job's one delivery."""
        [delivery] = await self.database.fetch(
            "SELECT delivery_id, state FROM webhook_deliveries WHERE job_id = $1", job_id
        )
        return delivery

    async def _let_leases_end(self, dead: Mortal) -> None:
        """They are long enough for a busy machine: shorter ones would end while the living are about to renew them."""
        silent = "UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE pid = $1"
        await self.database.execute(silent, dead.pid)
        if dead.role == "scheduler":
            await self.database.execute("UPDATE stages SET merge_until = now() WHERE merge_until > now()")

    async def _let_a_minute_pass(self, delivery_id: UUID) -> None:
        """How long a delivery is left to the scheduler that has taken it."""
        async with self.database.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE webhook_deliveries SET next_try_at = now() "
                "WHERE delivery_id = $1 AND state = 'pending' AND next_try_at > now() + interval '30 seconds'",
                delivery_id,
            )
            await notify(connection, WEBHOOKS_CHANNEL)

    async def _outcome(self, job_id: UUID) -> Outcome:
        delivery = await self._delivery(job_id)
        assert set(self.receiver.received[str(job_id)]) == {f"msg_{delivery['delivery_id'].hex}"}
        outcome = await read_outcome(self.database, self.aws, job_id)
        if (
            await self.database.fetchval("SELECT spec ->> 'output_queue' FROM jobs WHERE job_id = $1", job_id)
            is not None
        ):
            await self._assert_told(job_id, outcome)
        return outcome

    async def _assert_told(self, job_id: UUID, outcome: Outcome) -> None:
        """Of every success and at last of the job's end, some perhaps twice; what other jobs told is thrown away."""
        told: list[Any] = []
        queue = {"QueueUrl": self._told_url}
        while messages := (await self.aws.sqs.receive_message(**queue, MaxNumberOfMessages=10)).get("Messages"):
            for message in messages:
                await self.aws.sqs.delete_message(**queue, ReceiptHandle=message["ReceiptHandle"])
                event = json.loads(message["Body"])
                if event["data"]["job_id"] == str(job_id):
                    told.append(
                        event["type"]
                        if "index" not in event["data"]
                        else (event["data"]["stage"], event["data"]["index"])
                    )
        assert told[-1] == "job.succeeded"
        assert {*told} == {*outcome.tasks, "job.succeeded"}

    async def _until(self, condition: Callable[[], Awaitable[Any]], mortal: Mortal) -> Any:
        try:
            return await until(condition, SECONDS_MAX, POLL_SECONDS)
        except TimeoutError as error:
            said = "\n".join(each.log.read_text() for each in dict.fromkeys([mortal, *self.processes.values()]))
            raise AssertionError(f"{error}:\n{said}") from None
