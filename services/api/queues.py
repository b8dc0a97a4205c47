"""Checks users' queues when they are named, before a message is sent or received."""

import re
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from services.api.connections import Connections
from services.engine import places
from services.engine.errors import SpecError
from services.platform.problems import invalid
from services.platform.s3_faults import error_code

VISIBILITY_SECONDS_MIN = 30  # SQS's own default: a worker claims what it has received well within

_MISSING = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress", "404")
_REFUSED = ("AccessDenied", "AccessDeniedException", "403")

_AWS_HOST = re.compile(r"(?:sqs(?:-fips)?\.{region}|{region}\.queue|queue)\.(?:amazonaws\.com(?:\.cn)?|api\.aws)")


async def check_queue(api: Connections, queue_url: str, field: str) -> None:
    """Raises a 422 for `field` if there is no such queue, if it may not be used, or if it is one of Piecework's own."""
    try:
        await places.check_queue(api.database, queue_url, field, api.settings)
    except SpecError as error:
        raise invalid(field, queue_url, error.fix) from error
    if not _is_ours(api.aws.sqs.meta, urlsplit(queue_url).netloc):
        raise invalid(
            field, queue_url, f"write the queue's URL with SQS's own host, as in {api.aws.sqs.meta.endpoint_url}"
        )
    await _find(api, queue_url, field)


async def check_visibility(api: Connections, queue_url: str, field: str) -> None:
    """Raises a 422 for `field` if SQS says that the queue of a pool gives messages to others too soon.

    A queue of which it says nothing is taken as it is: workers need rights on it, not the API.
    """
    try:
        answer = await api.aws.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["VisibilityTimeout"])
    except (BotoCoreError, ClientError):
        return
    seconds = int(answer.get("Attributes", {}).get("VisibilityTimeout", VISIBILITY_SECONDS_MIN))
    if seconds < VISIBILITY_SECONDS_MIN:
        fix = f"its VisibilityTimeout is {seconds} s; set it to {VISIBILITY_SECONDS_MIN} s, which workers count on"
        raise invalid(field, queue_url, fix)


def _is_ours(client: Any, host: str) -> bool:
    """Whether messages for a queue at this host go to where Piecework sends them."""
    known = re.compile(_AWS_HOST.pattern.replace("{region}", re.escape(client.region_name)))
    own = urlsplit(client.endpoint_url).netloc
    return host == own or (known.fullmatch(own) is not None and known.fullmatch(host) is not None)


async def _find(api: Connections, queue_url: str, field: str) -> None:
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
