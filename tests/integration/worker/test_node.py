"""The life of a node: what it does with messages, orders, and a database or queue that is away."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import psutil
import pytest
import structlog

from services.contract.message import Message
from services.engine import jobs, transitions, workers
from services.platform import effects
from services.worker.node import node as node_module
from services.worker.node import receiver
from tests.forks import Fork
from tests.groups import create_group
from tests.integration.worker.conftest import InProcessGrid
from tests.invariants import assert_invariants
from tests.roles import as_owner
from tests.until import until

pytestmark = pytest.mark.usefixtures("tells_outside")

ITEM = {"type": "item", "value": 1}


def sleeper(seconds: float, started: Path) -> dict[str, Any]:
    """A command that tells the test (with its process id) that it runs."""
    return {"command": ["sh", "-c", f"echo $$ > {started}.$$ && mv {started}.$$ {started} && exec sleep {seconds}"]}


def read_pid(started: Path) -> int:
    return int(started.read_text()) if started.exists() else 0


async def runs(grid: InProcessGrid, started: Path) -> int:
    """Wait until the command of `sleeper` runs; returns its process id."""

    async def there() -> bool:
        return read_pid(started) > 0

    await until(there)
    return read_pid(started)


async def is_gone(grid: InProcessGrid, pid: int) -> None:
    async def gone() -> bool:
        return not psutil.pid_exists(pid)

    await until(gone)


async def queue_empties(grid: InProcessGrid) -> None:
    async def empty() -> bool:
        return await grid.queue_depth() == 0

    await until(empty)


@asynccontextmanager
async def database_away(grid: InProcessGrid) -> AsyncIterator[None]:
    """Every connection of the node's is cut, and none can be made."""
    name = await grid.database.fetchval("SELECT current_database()")
    connection = await asyncpg.connect(as_owner(grid.settings.database_url), database="postgres")
    await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    yield
    await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await connection.close()


@pytest.mark.both_emulators("DeleteMessageBatch", "ReceiveMessage")
async def test_a_message_delivered_twice_runs_its_tasks_once(grid: InProcessGrid) -> None:
    job_id = await grid.submit({"command": ["true"]}, [ITEM] * 4)
    await grid.dispatch(job_id, bundle_tasks_max=2, times=3)
    async with grid.node():
        await grid.ended(job_id)
        await queue_empties(grid)
    assert [task["attempt"] for task in await grid.tasks(job_id)] == [1] * 4
    assert len(await grid.attempts(job_id)) == 4
    await assert_invariants(grid.database, job_id)


@pytest.mark.both_emulators("SendMessage")
@pytest.mark.parametrize("body", ["no JSON", '{"bundle": "1"}', "[]"])
async def test_a_message_that_can_not_be_read_goes_to_the_dead_letter_queue(grid: InProcessGrid, body: str) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [ITEM])
    await grid.send(body)
    await grid.dispatch(job_id)
    async with grid.node():
        await grid.ended(job_id)
        await queue_empties(grid)
    assert await grid.messages(grid.dead_letter_url) == [body]


async def test_forged_counts_do_not_keep_a_worker_from_its_tasks(grid: InProcessGrid) -> None:
    """Neither those out of bounds, which are buried, nor those in bounds of bundles that do not exist."""
    forged = orjson.loads(Message(uuid4(), uuid4(), 0, 0, 1).encode())
    for count in (-1000, -4, 0, 2**62):
        await grid.send(orjson.dumps(forged | {"count": count}).decode())
    for _ in range(20):
        await grid.send(Message(uuid4(), uuid4(), 0, 0, 1_000_000).encode())
    job_id = await grid.submit({"builtin": "noop"}, [ITEM] * 20)
    await grid.dispatch(job_id)
    async with grid.node():
        await grid.ended(job_id)
        await queue_empties(grid)
    assert len(await grid.messages(grid.dead_letter_url)) == 4


async def test_a_message_that_names_another_stage_than_its_bundles_runs_nothing_as_that(
    grid: InProcessGrid, tmp_path: Path
) -> None:
    job_id = await grid.submit({"builtin": "noop"}, [ITEM])
    other_id = await grid.submit({"command": ["touch", str(tmp_path / "ran")]}, [ITEM])
    (message,) = await grid.dispatch(job_id, times=0)
    await grid.send(Message(message.bundle_id, other_id, 0, 0, 1).encode())
    async with grid.node():
        await grid.until("SELECT count(*) = 1 FROM attempts WHERE job_id = $1 AND outcome = 'released'", job_id)
        await grid.dispatch(job_id)
        await grid.ended(job_id)
    assert not (tmp_path / "ran").exists()
    assert [task["state"] for task in await grid.tasks(job_id)] == ["succeeded"]
    assert await grid.attempts(other_id) == []


async def test_a_message_for_tasks_that_are_gone_is_dropped(grid: InProcessGrid) -> None:
    await grid.send(Message(uuid4(), uuid4(), 0, 0, 10).encode())
    async with grid.node():
        await queue_empties(grid)
    assert await grid.messages(grid.dead_letter_url) == []


async def test_a_cancelled_job_is_killed_and_not_reported(grid: InProcessGrid, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM] * 2)
    other_id = await grid.submit({"command": ["true"]}, [ITEM])
    await grid.dispatch(job_id, bundle_tasks_max=2)
    async with grid.node(slots=1):
        pid = await runs(grid, tmp_path / "pid")
        async with grid.database.acquire() as connection:
            await jobs.cancel_job(connection, job_id)
            while not await transitions.cancel_tasks(connection, job_id, 100):
                pass
        await is_gone(grid, pid)
        await grid.dispatch(other_id)  # the slot is free again
        await grid.ended(other_id)
    assert [task["state"] for task in await grid.tasks(job_id)] == ["cancelled"] * 2
    assert [attempt["outcome"] for attempt in await grid.attempts(job_id)] == ["cancelled"] * 2
    await assert_invariants(grid.database, job_id)


async def test_a_drain_releases_what_waits_and_finishes_what_runs(grid: InProcessGrid, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(0.5, tmp_path / "pid"), [ITEM] * 5)
    await grid.dispatch(job_id, bundle_tasks_max=5)
    async with grid.node(slots=1) as node:
        await runs(grid, tmp_path / "pid")
        node.drain()
        await grid.until("SELECT state = 'draining' FROM workers")
    first, *others = await grid.tasks(job_id)
    assert (first["state"], first["attempt"]) == ("succeeded", 1)
    assert {(task["state"], task["failures"], task["losses"]) for task in others} == {("ready", 0, 0)}
    assert (await grid.worker())["state"] == "stopped"
    assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 0
    await assert_invariants(grid.database, job_id)


async def test_a_drain_kills_and_releases_what_does_not_end_in_time(grid: InProcessGrid, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(drain_seconds=0.2):
        pid = await runs(grid, tmp_path / "pid")
    await is_gone(grid, pid)
    (task,) = await grid.tasks(job_id)
    assert (task["state"], task["failures"]) == ("ready", 0)
    assert [attempt["outcome"] for attempt in await grid.attempts(job_id)] == ["released"]
    await assert_invariants(grid.database, job_id)


@pytest.mark.both_emulators("TerminateInstanceInAutoScalingGroup")
async def test_a_worker_drained_by_order_takes_its_instance_out_of_the_group(grid: InProcessGrid) -> None:
    name = await create_group(grid.aws, maximum=3, desired=1)

    async def group() -> dict[str, Any]:
        answer = await grid.aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        found: dict[str, Any] = answer["AutoScalingGroups"][0]
        return found

    (instance,) = (await group())["Instances"]
    async with grid.node(instance_id=instance["InstanceId"]):
        await grid.until("SELECT count(*) = 1 FROM workers")
    assert len((await group())["Instances"]) == 1, "a node that is only restarted keeps its instance"
    async with grid.node(instance_id=instance["InstanceId"]):
        await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'active'")
        async with grid.database.acquire() as connection:
            await workers.drain_worker(connection, (await grid.worker())["worker_id"])
        await grid.until("SELECT count(*) = 2 FROM workers WHERE state = 'stopped'")
    after = await group()
    assert (after["DesiredCapacity"], after["Instances"]) == (0, [])


async def test_a_drain_in_the_middle_of_the_registration_leaves_no_live_worker(grid: InProcessGrid) -> None:
    async with grid.node() as node:

        def drain(moment: effects.Moment, effect: effects.Effect) -> None:
            if (moment, effect.name) == ("after", "engine.workers.register_worker"):
                node.drain()

        effects.watch(drain)
        await grid.until("SELECT count(*) = 1 FROM workers")
    effects.watch(None)
    assert (await grid.worker())["state"] == "stopped"


async def test_what_a_lost_claim_reply_left_behind_is_abandoned(grid: InProcessGrid) -> None:
    """The database gave the worker a bundle, the worker does not know: its heartbeat gives it back."""
    job_id = await grid.submit({"builtin": "noop"}, [ITEM] * 3)
    async with grid.database.acquire() as connection:
        await connection.execute("SELECT 1")
        messages = await transitions.dispatch(
            connection, job_id, 0, pool="default", tasks_max=10, bundle_tasks_max=3, resend_seconds=60
        )
    async with grid.node():
        await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'active'")
        worker_id = (await grid.worker())["worker_id"]
        assert len(await transitions.claim(grid.database, worker_id, [message.bundle_id for message in messages])) == 3
        await grid.until("SELECT count(*) = 3 FROM tasks WHERE job_id = $1 AND state = 'ready'", job_id)
        assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 0
        await grid.dispatch(job_id)
        await grid.ended(job_id)
    assert {(task["state"], task["attempt"], task["losses"]) for task in await grid.tasks(job_id)} == {
        ("succeeded", 2, 0)
    }


async def test_a_worker_given_up_kills_its_tasks_and_starts_again(grid: InProcessGrid, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(drain_seconds=0.2):
        pid = await runs(grid, tmp_path / "pid")
        await grid.database.execute("UPDATE workers SET state = 'lost'")
        await is_gone(grid, pid)
        await grid.until("SELECT count(*) = 1 FROM workers WHERE state = 'active'")
    assert await grid.database.fetchval("SELECT count(*) FROM workers") == 2
    (task,) = await grid.tasks(job_id)
    assert (task["state"], task["losses"]) == ("ready", 0), "given back at once, without the reaper"
    await assert_invariants(grid.database, job_id)


async def test_a_short_absence_of_the_database_loses_nothing(grid: InProcessGrid, tmp_path: Path) -> None:
    """What ends meanwhile is reported when the database is back, by the same worker."""
    job_id = await grid.submit(sleeper(0.5, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(lease_seconds=30.0):
        pid = await runs(grid, tmp_path / "pid")
        async with database_away(grid):
            await is_gone(grid, pid)
        await grid.ended(job_id)
        assert await grid.database.fetchval("SELECT count(*) FROM workers") == 1
    (task,) = await grid.tasks(job_id)
    assert (task["state"], task["attempt"]) == ("succeeded", 1)
    await assert_invariants(grid.database, job_id)


async def test_attempts_run_on_while_the_database_is_away_for_longer_than_the_lease(
    grid: InProcessGrid, tmp_path: Path
) -> None:
    job_id = await grid.submit(sleeper(4, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(lease_seconds=1.0):
        pid = await runs(grid, tmp_path / "pid")
        async with database_away(grid):
            await is_gone(grid, pid)
            assert not await grid.queue_depth()
        await grid.ended(job_id)
        assert await grid.database.fetchval("SELECT count(*) FROM workers") == 1
    assert [(attempt["attempt"], attempt["outcome"]) for attempt in await grid.attempts(job_id)] == [(1, "succeeded")]
    assert (await grid.attempts(job_id))[0]["run_seconds"] > 3
    await assert_invariants(grid.database, job_id)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_worker_cut_off_for_too_long_ends_what_may_not_run_twice_at_once(
    grid: InProcessGrid, tmp_path: Path, idempotent: bool
) -> None:
    job_id = await grid.submit({**sleeper(3, tmp_path / "pid"), "idempotent": idempotent}, [ITEM])
    await grid.dispatch(job_id)
    async with grid.node(cut_off_seconds=0.5, lease_seconds=3.0):
        pid = await runs(grid, tmp_path / "pid")
        async with database_away(grid):
            await is_gone(grid, pid)
        await grid.until("SELECT count(*) = 1 FROM attempts WHERE job_id = $1", job_id)
    assert [each["outcome"] for each in await grid.attempts(job_id)] == ["succeeded" if idempotent else "released"]


async def test_messages_that_come_while_the_database_is_away_are_handed_back_once(
    grid: InProcessGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait, rather than be received again and again until the queue takes them for bad ones."""
    monkeypatch.setattr(receiver, "_CLAIM_SECONDS", 0.2)
    seen: list[str] = []
    effects.watch(lambda moment, effect: seen.append(effect.name) if moment == "before" else None)
    async with grid.node(lease_seconds=1.0):
        await grid.until("SELECT count(*) = 1 FROM workers")
        async with database_away(grid):
            await grid.send(Message(uuid4(), uuid4(), 0, 0, 1).encode())
            await until(lambda: "ChangeMessageVisibilityBatch" in seen)
            since = len(seen)
            with structlog.testing.capture_logs() as logs:
                await grid.send(Message(uuid4(), uuid4(), 0, 0, 1).encode())
                await asyncio.sleep(3 * grid.settings.receive_wait_seconds)
            assert "ReceiveMessage" not in seen[since:], "nothing can be claimed"
            assert logs == [], "it has said so"
        await until(lambda: "DeleteMessageBatch" in seen[since:])
    effects.watch(None)


async def test_a_drain_ends_in_time_while_the_database_is_away_and_names_what_is_lost(
    grid: InProcessGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "_REPORT_SECONDS_MIN", 0.5)
    monkeypatch.setattr(node_module, "_STOP_SECONDS", 0.5)
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    with structlog.testing.capture_logs() as logs:
        async with grid.node(drain_seconds=1.0) as node:
            await runs(grid, tmp_path / "pid")
            async with database_away(grid):
                began_at = asyncio.get_running_loop().time()
                node.drain()
                await until(lambda: any("attempts not reported" in line["event"] for line in logs))
                assert asyncio.get_running_loop().time() - began_at < 10
    (line,) = [line for line in logs if "attempts not reported" in line["event"]]
    assert line["attempts"] == [f"{job_id}/0/0 attempt 1 released"]


async def test_tasks_that_wait_too_long_are_released_to_others(grid: InProcessGrid, tmp_path: Path) -> None:
    """A bundle whose tasks take longer than expected does not keep them from free workers."""
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM] * 3)
    await grid.dispatch(job_id, bundle_tasks_max=3)
    async with grid.node(slots=1, bundle_seconds=0.1, drain_seconds=0.2):
        await grid.until("SELECT count(*) = 2 FROM tasks WHERE job_id = $1 AND state = 'ready'", job_id)
        assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 1, "the running task is still held"
    await assert_invariants(grid.database, job_id)


async def test_long_tasks_are_left_to_others(grid: InProcessGrid, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM] * 6)
    await grid.dispatch(job_id)
    async with grid.node(drain_seconds=0.2):
        await grid.until("SELECT busy = 2 FROM workers")
        assert await grid.database.fetchval("SELECT count(*) FROM bundles WHERE worker_id IS NULL") == 4


@pytest.mark.both_emulators("ChangeMessageVisibilityBatch")
async def test_a_worker_runs_one_suspect_at_a_time_and_leaves_others_to_others(
    grid: InProcessGrid, tmp_path: Path
) -> None:
    """The message that it passes on is there again after a second, not after the queue's 30."""
    done = tmp_path / "done"
    wait = {"command": ["sh", "-c", f"until [ -e {done} ]; do sleep 0.02; done"]}
    job_id = await grid.submit(wait, [ITEM] * 2)
    await grid.database.execute("UPDATE tasks SET losses = 2 WHERE job_id = $1", job_id)
    await grid.dispatch(job_id)
    async with grid.node(slots=2):
        await grid.until("SELECT count(*) = 1 FROM tasks WHERE job_id = $1 AND state = 'running'", job_id)
        await message_is_passed_on(grid)
        assert await grid.database.fetchval("SELECT count(*) FROM bundles WHERE worker_id IS NOT NULL") == 1
        done.touch()
        await grid.ended(job_id)
    assert [attempt["outcome"] for attempt in await grid.attempts(job_id)] == ["succeeded"] * 2


async def message_is_passed_on(grid: InProcessGrid) -> None:
    """Wait until one message is hidden from all."""

    async def hidden() -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = await grid.aws.sqs.get_queue_attributes(QueueUrl=grid.queue_url, AttributeNames=names)
        return [answer["Attributes"][name] for name in names] == ["0", "1"]

    await until(hidden)


def start(grid: InProcessGrid, *arguments: str, **environment: str) -> Fork:
    names = ("database_url", "aws_endpoint_url", "bucket", "scratch", "heartbeat_seconds", "receive_wait_seconds")
    settings = {f"PIECEWORK_{name.upper()}": str(getattr(grid.settings, name)) for name in (*names, "isolation")}
    log = Path(f"{grid.settings.scratch}.log")
    return Fork("services.worker", *arguments, env={**os.environ, **settings, **environment}, log=log)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--pool", "nope"], {}, "no pool is named 'nope'; register it first"),
        (["--slots", "many"], {}, "PIECEWORK_SLOTS: Input should be a valid integer"),
        ([], {"PIECEWORK_RECEIVE_WAIT_SECONDS": "21"}, "PIECEWORK_RECEIVE_WAIT_SECONDS: Input should be less than"),
        ([], {"PIECEWORK_SCRATCH": "/dev/null/x"}, "can't use the directory in PIECEWORK_SCRATCH: "),
    ],
)
async def test_what_can_not_start_says_why_in_one_line(
    grid: InProcessGrid, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    process = start(grid, *arguments, **environment)
    assert await process.ended() == 2
    (line,) = process.lines
    assert line.startswith(message)


async def test_sigterm_drains_the_process(grid: InProcessGrid, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(0.5, tmp_path / "pid"), [ITEM] * 3)
    await grid.dispatch(job_id, bundle_tasks_max=3)
    process = start(grid, "--slots", "1")
    await runs(grid, tmp_path / "pid")
    process.send_signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert [task["state"] for task in await grid.tasks(job_id)] == ["succeeded", "ready", "ready"]
    assert (await grid.worker())["state"] == "stopped"
    assert os.listdir(grid.settings.scratch) == ["lock"]  # noqa: PTH208


async def test_a_second_interrupt_ends_the_process_and_its_tasks_at_once(grid: InProcessGrid, tmp_path: Path) -> None:
    job_id = await grid.submit(sleeper(1000, tmp_path / "pid"), [ITEM])
    await grid.dispatch(job_id)
    process = start(grid)
    pid = await runs(grid, tmp_path / "pid")
    process.send_signal(signal.SIGINT)
    await until(lambda: any('"draining"' in line for line in process.lines))
    process.send_signal(signal.SIGINT)
    assert await process.ended() == 130
    await is_gone(grid, pid)


async def test_a_worker_waits_for_its_database_and_queue(grid: InProcessGrid) -> None:
    """Both are away when it starts; it says so once each, and goes on when they are there."""
    job_id = await grid.submit({"builtin": "noop"}, [ITEM])
    real_url = grid.queue_url
    await grid.database.execute("UPDATE pools SET queue_url = replace(queue_url, '/test-', '/gone-')")
    async with database_away(grid):
        process = start(grid)
        assert '"database"' in await process.prints(0)
    lines = [await process.prints(number) for number in (1, 2, 3)]
    assert ["works again" in lines[0], "registered" in lines[1], '"queue"' in lines[2]] == [True] * 3
    await grid.aws.sqs.create_queue(QueueName=real_url.rpartition("/")[2].replace("test-", "gone-"))
    grid.queue_url = real_url.replace("/test-", "/gone-")
    await grid.dispatch(job_id)
    await grid.ended(job_id)
    process.terminate()
    assert await process.ended() == 0
