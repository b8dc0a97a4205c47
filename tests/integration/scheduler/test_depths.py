"""How deep the queues are is told; of a queue that can't be asked, nothing."""

from prometheus_client import REGISTRY

from services.scheduler.loop import Context
from services.scheduler.loops import depths
from tests.integration.scheduler.conftest import Queue


def depth(queue: str) -> float | None:
    return REGISTRY.get_sample_value("piecework_queue_messages", {"pool": "default", "queue": queue})


async def test_the_messages_of_a_pools_queues_are_counted(context: Context, queue: Queue) -> None:
    dead_letters = (await context.aws.sqs.create_queue(QueueName=f"{context.settings.bucket}-dead"))["QueueUrl"]
    await context.database.execute(
        "INSERT INTO pools (name, queue_url, dead_letter_url) VALUES ('default', $1, $2)", queue.url, dead_letters
    )
    for number in range(3):
        await context.aws.sqs.send_message(QueueUrl=dead_letters, MessageBody=f"bad {number}")

    await depths.step(context)
    assert (depth("work"), depth("dead_letter")) == (0, 3)

    await context.aws.sqs.delete_queue(QueueUrl=dead_letters)
    await depths.step(context)
    assert (depth("work"), depth("dead_letter")) == (0, None)
