"""From one release to the next without a pause: what runs goes on, and services of both work beside each other."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from services.contract.location import Location
from services.engine.migrate import migrate
from services.platform.aws import Aws
from services.platform.database import Database, connect_database
from services.platform.settings import Settings
from tests.conftest import free_port
from tests.grid import PROCESSORS, Gate
from tests.invariants import TERMINAL, assert_invariants
from tests.until import until
from tests.upgrade.release import BASE_MIGRATE, ROOT, Fleet, extract_base_release

pytestmark = pytest.mark.timeout(600)

KEY = "pw_upgrade"
SECONDS_MAX = 180.0  # a few, but two releases start side by side and the machine may be busy
WORDS = [f"{'abcde'[number % 5]} {number}" for number in range(200)]
EXPECTED = Counter[str]()
for word, number in map(str.split, WORDS):
    EXPECTED[word] += int(number)


@pytest.fixture(scope="session")
def base_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract_base_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def settings(empty_url: str, settings: Settings) -> Settings:
    quick = {"lease_seconds": 10.0, "heartbeat_seconds": 0.2, "resend_seconds": 2.0}
    return settings.model_copy(update={"database_url": empty_url, "bootstrap_api_key": KEY, **quick})


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = await connect_database(settings.database_url)
    yield database
    await database.close()


@pytest.fixture
def fleets(settings: Settings, tmp_path: Path, base_release: Path) -> Iterator[tuple[Fleet, Fleet]]:
    """The services of the release before, and of this one. Tasks wait at a gate outside of their own directories."""
    extra = {"processor_path": PROCESSORS, "receive_wait_seconds": 1, "isolation": "process"}
    old = Fleet(base_release, settings, tmp_path / "old", **extra)
    new = Fleet(ROOT, settings, tmp_path / "new", **extra)
    yield old, new
    for fleet in (old, new):
        fleet.stop()


@dataclass
class User:
    """Submits jobs over HTTP, and checks what came of them in the database and in S3."""

    api: httpx.AsyncClient
    aws: Aws
    bucket: str
    database: Database

    async def _ok(self, method: str, path: str, **body: Any) -> Any:
        response = await self.api.request(method, path, json=body or None)
        assert response.is_success, response.text
        return response.json()

    async def api_answers(self) -> None:
        """Wait until the API is ready and knows the key."""

        async def ready() -> bool:
            try:
                answers = [await self.api.get(path) for path in ("/readyz", "/v1/pools")]
            except httpx.TransportError:
                return False
            return all(answer.status_code == 200 for answer in answers)

        await until(ready, SECONDS_MAX)

    async def prepare(self) -> None:
        """As soon as the API is ready: a pool, processors and raw data."""
        await self.api_answers()
        queue, dead = [(await self.aws.sqs.create_queue(QueueName=f"test-{uuid4().hex}"))["QueueUrl"] for _ in range(2)]
        await self._ok("PUT", "/v1/pools/default", queue_url=queue, dead_letter_url=dead)
        for spec in (
            {"name": "clean", "records": "words:clean"},
            {"name": "count", "callable": "words:count", "output": "counts.json"},
            {"name": "total", "callable": "words:total", "output": "totals.json"},
        ):
            await self._ok("POST", "/v1/processors", **spec)
        await self.aws.s3.put_object(Bucket=self.bucket, Key="words", Body="\n".join(WORDS).encode())

    async def submit(self, **params: Any) -> UUID:
        """The sum of each word's numbers: three stages, of 10 and 10 tasks and one."""
        job = await self._ok(
            "POST",
            "/v1/jobs",
            input={"type": "lines", "uri": f"s3://{self.bucket}/words", "parts": 10},
            stages=[{"processor": "clean"}, {"processor": "count", "params": params}],
            merge={"type": "reduce", "processor": "total"},
        )
        return UUID(job["job_id"])

    async def assert_right(self, job_id: UUID) -> None:
        """The job has succeeded, as if nothing had happened."""

        async def ended() -> Any:
            job = await self._ok("GET", f"/v1/jobs/{job_id}")
            return job if job["state"] in TERMINAL else None

        job = await until(ended, SECONDS_MAX)
        assert (job["state"], job["error"]) == ("succeeded", None)
        [file] = (await self._ok("GET", f"/v1/jobs/{job_id}/results"))["files"]
        place = Location.parse(file["uri"])
        answer = await self.aws.s3.get_object(Bucket=place.bucket, Key=place.key)
        assert json.loads(await answer["Body"].read()) == EXPECTED
        await assert_invariants(self.database, job_id)
        assert await self.database.fetchval("SELECT max(failures) FROM tasks") == 0

    async def workers_of(self, job_id: UUID) -> int:
        """How many workers have run its tasks."""
        succeeded = "SELECT count(DISTINCT worker_id) FROM attempts WHERE job_id = $1 AND outcome = 'succeeded'"
        workers: int = await self.database.fetchval(succeeded, job_id)
        return workers


@pytest.fixture
async def user(settings: Settings, aws: Aws, database: Database) -> AsyncIterator[User]:
    port = free_port()
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as api:
        yield User(api, aws, settings.bucket, database)


def port_of(user: User) -> int:
    assert user.api.base_url.port is not None
    return user.api.base_url.port


async def test_a_job_goes_on_while_its_database_and_all_services_are_upgraded(
    fleets: tuple[Fleet, Fleet], user: User, settings: Settings, tmp_path: Path
) -> None:
    old, new = fleets
    gate = Gate(tmp_path / "gate")
    old.run(BASE_MIGRATE)
    old.start_api(port_of(user))
    old.start_scheduler()
    await user.prepare()
    old.start_worker()
    job_id = await user.submit(gate=gate.path)

    async def a_task_waits() -> bool:
        return any(Path(gate.path).iterdir())  # noqa: ASYNC240

    await until(a_task_waits, SECONDS_MAX)

    await migrate(settings.database_url)
    new.start_scheduler()
    new.start_worker()
    for name in ("api", "scheduler", "worker"):
        old.tell_to_stop(name)
    gate.open()
    for name in ("scheduler", "worker"):
        old.await_end(name)
    new.start_api(port_of(user))

    await user.api_answers()
    await user.assert_right(job_id)
    assert await user.workers_of(job_id) == 2
    assert "Traceback" not in old.log("scheduler") + old.log("worker") + new.log("scheduler") + new.log("worker")


@pytest.mark.parametrize("behind", [("worker",), ("api", "scheduler")], ids=["worker", "api and scheduler"])
async def test_services_of_the_release_before_work_beside_those_of_this_one(
    behind: tuple[str, ...], fleets: tuple[Fleet, Fleet], user: User, settings: Settings
) -> None:
    old, new = fleets
    await migrate(settings.database_url)
    apis, schedulers, workers = (old if name in behind else new for name in ("api", "scheduler", "worker"))
    apis.start_api(port_of(user))
    schedulers.start_scheduler()
    await user.prepare()
    workers.start_worker()

    await user.assert_right(await user.submit())
