"""Checks users' queues when they are named, before a message is sent or received."""

import re
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, ParamValidationError

from services.api.connections import Connections
from services.engine.errors import SpecError
from services.engine.places import check_queue_allowed
from services.platform.problems import invalid
from services.platform.s3_faults import error_code

_MISSING = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress", "404")
_REFUSED = ("AccessDenied", "AccessDeniedException", "403")

_POOLS = "SELECT name, queue_url, dead_letter_url FROM pools"
_AWS_HOST = re.compile(r"(?:sqs(?:-fips)?\.{region}|{region}\.queue|queue)\.(?:amazonaws\.com(?:\.cn)?|api\.aws)")


async def check_queue(api: Connections, queue_url: str, field: str) -> None:
    """Raises a 422 for `field` if there is no such queue, if it may not be used, or if it is one of Piecework's own.

    Queues are compared by their ARNs; SQS itself says which queue a URL names.
    """
    try:
        check_queue_allowed(queue_url, field, api.settings)
    except SpecError as error:
        raise invalid(field, queue_url, error.fix) from error
    if not _is_ours(api.aws.sqs.meta, urlsplit(queue_url).netloc):
        raise invalid(
            field, queue_url, f"write the queue's URL with SQS's own host, as in {api.aws.sqs.meta.endpoint_url}"
        )
    arn = await _find_arn(api, queue_url, field)
    for pool in await api.database.fetch(_POOLS):
        if any(_names(url, arn) for url in (pool["queue_url"], pool["dead_letter_url"])):
            raise invalid(field, queue_url, f"this queue belongs to the pool {pool['name']}; name one of your own")


def _is_ours(client: Any, host: str) -> bool:
    """Whether messages for a queue at this host go to where Piecework sends them."""
    known = re.compile(_AWS_HOST.pattern.replace("{region}", re.escape(client.region_name)))
    own = urlsplit(client.endpoint_url).netloc
    return host == own or (known.fullmatch(own) is not None and known.fullmatch(host) is not None)


def _names(queue_url: str, arn: str) -> bool:
    return urlsplit(queue_url).path.strip("/").split("/")[-2:] == arn.split(":")[-2:]


async def _find_arn(api: Connections, queue_url: str, field: str) -> str:
    try:
        answer = await api.aws.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        return str(answer["Attributes"]["QueueArn"])
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
