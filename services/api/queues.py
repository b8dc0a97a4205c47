"""Checks users' queues when they are named, before a message is sent or received."""

from botocore.exceptions import ClientError, ParamValidationError

from services.api.connections import Connections
from services.platform.problems import invalid
from services.platform.s3_faults import error_code

_MISSING = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress", "404")
_REFUSED = ("AccessDenied", "AccessDeniedException", "403")

_OURS = "SELECT name FROM pools WHERE $1 IN (queue_url, dead_letter_url)"


async def check_queue(api: Connections, queue_url: str, field: str) -> None:
    """Raises a 422 for `field` if there is no such queue, if it may not be used, or if it is one of Piecework's own."""
    if (pool := await api.database.fetchval(_OURS, queue_url)) is not None:
        raise invalid(field, queue_url, f"this queue belongs to the pool {pool}; name one of your own")
    try:
        await api.aws.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    except ParamValidationError as error:
        raise invalid(field, queue_url, "this is not a queue's URL") from error
    except ClientError as error:
        code = error_code(error)
        if code in _MISSING:
            raise invalid(field, queue_url, "there is no such queue in Piecework's account and region") from error
        if code in _REFUSED:
            fix = "Piecework may not use this queue; grant its role sqs:GetQueueAttributes and the actions it needs"
            raise invalid(field, queue_url, fix) from error
        raise
