"""Every statement that counts, and every try of a request, passes the gate of services.platform.effects."""

import asyncio
from collections.abc import Iterator

import pytest

from services.engine import pools, transitions, workers
from services.platform import effects
from services.platform.aws import Aws, connect_aws
from services.platform.database import Database, connect_alone, new_id
from services.platform.effects import Effect, Moment
from services.platform.settings import Settings

Seen = list[tuple[Moment, Effect]]


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen: Seen = []
    effects.watch(lambda moment, effect: seen.append((moment, effect)))
    yield seen
    effects.watch(None)


def names(seen: Seen) -> list[str]:
    """What was told "before"; its "after" followed at once."""
    before, after = seen[::2], seen[1::2]
    assert [("after", effect) for _, effect in before] == after
    return [effect.name for _, effect in before]


async def test_a_statement_alone_is_told_by_its_function(database: Database, seen: Seen) -> None:
    await pools.load_pool(database, "default")
    async with database.acquire() as connection:
        await workers.stop_worker(connection, new_id())
    assert names(seen) == ["engine.pools.load_pool", "engine.workers.stop_worker"]


async def test_of_a_transaction_its_commit_alone_is_told(database: Database, seen: Seen) -> None:
    async with database.acquire() as connection:
        await transitions.cancel_tasks(connection, new_id(), 1)  # a transaction of its own
        async with connection.transaction():  # within ours it is not an effect
            await transitions.cancel_tasks(connection, new_id(), 1)
            await workers.stop_worker(connection, new_id())
    assert names(seen) == ["engine.transitions.cancel_tasks", "elsewhere"]


async def test_a_transaction_that_rolls_back_has_no_effect(database: Database, seen: Seen) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.acquire() as connection, connection.transaction():
            await workers.stop_worker(connection, new_id())
            raise ZeroDivisionError
    assert seen == []


async def test_a_connection_of_its_own_is_watched_too(settings: Settings, seen: Seen) -> None:
    connection = await connect_alone(settings.database_url)
    await connection.add_listener("channel", lambda *_: None)
    connection.terminate()
    assert names(seen) == ["elsewhere"]


async def test_calls_to_all_of_aws_are_told(aws: Aws, settings: Settings, seen: Seen) -> None:
    await aws.s3.put_object(Bucket=settings.bucket, Key="key", Body=b"body")
    answer = await aws.s3.get_object(Bucket=settings.bucket, Key="key")
    await answer["Body"].read()
    await aws.sqs.create_queue(QueueName=f"{settings.bucket}-queue")
    await aws.autoscaling.describe_auto_scaling_groups()
    assert [(effect.kind, effect.name) for _, effect in seen[::2]] == [
        ("s3", "PutObject"),
        ("s3", "GetObject"),
        ("sqs", "CreateQueue"),
        ("autoscaling", "DescribeAutoScalingGroups"),
    ]
    assert len(names(seen)) == 4


async def test_each_try_of_a_call_is_told(settings: Settings, seen: Seen) -> None:
    answers = iter([b"503 Slow Down", b"500 Internal Server Error", b"200 OK"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % next(answers))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connect_aws(settings.model_copy(update={"aws_endpoint_url": url})) as aws:
            await aws.s3.head_object(Bucket="bucket", Key="key")
    assert names(seen) == ["HeadObject"] * 3


async def test_a_request_within_a_transaction_is_told_with_who_has_begun_it(
    database: Database, aws: Aws, seen: Seen
) -> None:
    told: list[tuple[str, str]] = []
    effects.watch_transactions(lambda effect, begun_by: told.append((effect.name, begun_by)))

    async with database.acquire() as connection:
        async with connection.transaction():
            async with connection.transaction():
                await connection.execute("SELECT 1")
            await asyncio.gather(aws.s3.list_buckets())  # also what it starts
        await aws.s3.list_buckets()
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                raise ZeroDivisionError
        await aws.s3.list_buckets()

    assert told == [("ListBuckets", "elsewhere")]
