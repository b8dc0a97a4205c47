"""ministack plus the Auto Scaling actions that Piecework needs and ministack lacks, and quicker uploads, downloads,
ranges, polls.

Run by deploy.local.emulator, with ministack's own environment variables and command line.
"""

import asyncio
import json
import mmap
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from hypercorn.config import Config
from ministack import app
from ministack.core.responses import new_uuid, now_iso
from ministack.services import autoscaling, s3, sqs

Response = tuple[int, dict[str, str], bytes]

POLL_SECONDS = 0.1  # what becomes visible again announces itself to nobody
PIECE_BYTES = 1 << 20


def terminate_instance(params: dict[str, str]) -> Response:
    """TerminateInstanceInAutoScalingGroup, as the Amazon EC2 Auto Scaling API reference has it.

    The instance is gone at once, unless the group has a hook for that; without the decrement the group gets a new one
    in its place.
    """
    instance_id = params.get("InstanceId", "")
    decrement = params.get("ShouldDecrementDesiredCapacity", "")
    if decrement not in ("true", "false"):
        return _refuse(f"ShouldDecrementDesiredCapacity must be true or false, not {decrement!r}")
    for name, group in autoscaling._asgs.items():
        for instance in group["Instances"]:
            if instance["InstanceId"] == instance_id:
                if decrement == "true" and group["DesiredCapacity"] <= group["MinSize"]:
                    return _refuse(
                        f"Currently, desiredSize equals minSize ({group['MinSize']}). Terminating instance without "
                        "replacement will violate group's min size constraint. Either set "
                        "shouldDecrementDesiredCapacity flag to false or lower group's min size."
                    )
                return _terminate(name, group, instance, decrement == "true")
    return _refuse(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")


def _terminate(name: str, group: dict[str, Any], instance: dict[str, Any], decrement: bool) -> Response:
    capacity, started, instance_id = group["DesiredCapacity"], now_iso(), instance["InstanceId"]
    group["Instances"].remove(instance)
    HOOKS.wait(name, instance_id)
    cause = f"At {started} instance {instance_id} was taken out of service in response to a user request"
    if decrement:
        group["DesiredCapacity"] = capacity - 1
        cause += f", shrinking the capacity from {capacity} to {capacity - 1}"
    autoscaling._reconcile_instances(group)
    activity = {
        "ActivityId": new_uuid(),
        "AutoScalingGroupName": name,
        "Description": f"Terminating EC2 instance: {instance_id}",
        "Cause": f"{cause}.",
        "StartTime": started,
        "StatusCode": "InProgress",
        "Progress": "0",
        "Details": json.dumps({"Availability Zone": instance["AvailabilityZone"]}),
    }
    members = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in activity.items())
    action = "TerminateInstanceInAutoScalingGroup"
    result: Response = autoscaling._xml(
        200, f"{action}Response", f"<{action}Result><Activity>{members}</Activity></{action}Result>"
    )
    return result


def set_instance_health(params: dict[str, str]) -> Response:
    """SetInstanceHealth: an unhealthy instance is replaced."""
    if params.get("HealthStatus") != "Unhealthy":
        return _refuse("only HealthStatus Unhealthy is played here")
    response = terminate_instance(params | {"ShouldDecrementDesiredCapacity": "false"})
    return response if response[0] != 200 else _done("SetInstanceHealth")


class LifecycleHooks:
    """The instances that a terminating hook keeps from their end: until it is completed, or its time is over."""

    def __init__(self) -> None:
        self._ends_at: dict[tuple[str, str], float] = {}  # by instance and hook

    def wait(self, group: str, instance_id: str) -> None:
        for hook in autoscaling._hooks.values():
            terminating = hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
            if terminating and hook["AutoScalingGroupName"] == group:
                self._ends_at[instance_id, hook["LifecycleHookName"]] = time.monotonic() + hook["HeartbeatTimeout"]

    def complete(self, params: dict[str, str]) -> Response:
        """CompleteLifecycleAction."""
        if (hook := self._find(params)) is None:
            return self._refuse(params)
        del self._ends_at[hook]
        return _done("CompleteLifecycleAction")

    def beat(self, params: dict[str, str]) -> Response:
        """RecordLifecycleActionHeartbeat."""
        if (hook := self._find(params)) is None:
            return self._refuse(params)
        found = autoscaling._hooks[f"{params['AutoScalingGroupName']}/{params['LifecycleHookName']}"]
        self._ends_at[hook] = time.monotonic() + found["HeartbeatTimeout"]
        return _done("RecordLifecycleActionHeartbeat")

    def _find(self, params: dict[str, str]) -> tuple[str, str] | None:
        hook = (params.get("InstanceId", ""), params.get("LifecycleHookName", ""))
        return hook if self._ends_at.get(hook, 0.0) > time.monotonic() else None

    def _refuse(self, params: dict[str, str]) -> Response:
        return _refuse(f"No active Lifecycle Action found with instance ID {params.get('InstanceId')}")


HOOKS = LifecycleHooks()


class LongPolls:
    """Ends a long poll as soon as a message comes, as SQS does; ministack's own looks ten times a second."""

    def __init__(self) -> None:
        self._send = sqs._act_send_message  # of which a batch makes one call a message
        self._receive = sqs._act_receive_message
        self._sent = asyncio.Event()

    def send(self, data: dict[str, Any], queue_url: str) -> dict[str, Any]:
        """SendMessage."""
        answer: dict[str, Any] = self._send(data, queue_url)
        self._sent.set()
        return answer

    async def receive(self, data: dict[str, Any], queue_url: str) -> dict[str, Any]:
        """ReceiveMessage."""
        attributes = sqs._get_q(data.get("QueueUrl", queue_url))["attributes"]
        wait_seconds = int(data.get("WaitTimeSeconds", attributes.get("ReceiveMessageWaitTimeSeconds", 0)))
        deadline = time.monotonic() + wait_seconds
        while True:
            self._sent.clear()
            answer: dict[str, Any] = await self._receive(data | {"WaitTimeSeconds": 0}, queue_url)
            left = deadline - time.monotonic()
            if answer or left <= 0:
                return answer
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, POLL_SECONDS)):
                    await self._sent.wait()


class RangedReads:
    """Gives a range of an object without the rest of it; ministack's own reads all of it for each range."""

    def __init__(self) -> None:
        self._read, self._get, self._copy = s3._read_body, s3._get_object, s3._upload_part_copy
        self._range_of: ContextVar[str] = ContextVar("range_of", default="")  # the request, if it is for a range

    def get(self, bucket: str, key: str, headers: dict[str, str], query: dict[str, Any]) -> Response:
        """GetObject."""
        request = "get" if "range" in headers else ""
        return copy_context().run(self._run, request, self._get, bucket, key, headers, query)

    def copy(self, bucket: str, key: str, query: dict[str, Any], headers: dict[str, str]) -> Response:
        """UploadPartCopy."""
        request = "copy" if "x-amz-copy-source-range" in headers else ""
        return copy_context().run(self._run, request, self._copy, bucket, key, query, headers)

    def _run(self, request: str, handler: Callable[..., Response], *arguments: Any) -> Response:
        self._range_of.set(request)
        return handler(*arguments)

    def read(self, bucket: str, key: str, record: dict[str, Any]) -> Any:
        """The object's content: to be sliced, if the request is for a range, without a copy, if that is only sent."""
        request, content = self._range_of.get(), None
        if request and record.get("body") is None and record.get("size"):
            with suppress(OSError), Path(s3._object_disk_path(bucket, key)).open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if content is None:
            content = self._read(bucket, key, record)
        return memoryview(content) if request == "get" else content


async def read_request_body(
    receive: Callable[[], Awaitable[dict[str, Any]]], method: str, headers: dict[str, str]
) -> bytes:
    """ministack's own adds up bytes, in quadratic time: seconds for an upload of 30 MB."""
    chunks = []
    if headers.get("content-length") or headers.get("transfer-encoding") or method in app._BODY_METHODS:
        more = True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
    body: bytes = app._decode_aws_chunked_body(b"".join(chunks), headers)
    return body


async def send_response(
    send: Callable[[dict[str, Any]], Awaitable[None]],
    status: int,
    headers: dict[str, str],
    body: bytes | str | memoryview,
) -> None:
    """Piece by piece, as the client takes them; ministack's own has a large body copied as a whole, four times."""
    view = memoryview(body.encode() if isinstance(body, str) else body)
    if "content-length" not in {name.lower() for name in headers}:
        headers["Content-Length"] = str(len(view))
    await send({"type": "http.response.start", "status": status, "headers": app._asgi_header_list(headers)})
    for start in range(0, len(view), PIECE_BYTES):
        await send({"type": "http.response.body", "body": view[start : start + PIECE_BYTES], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _done(action: str) -> Response:
    response: Response = autoscaling._xml(200, f"{action}Response", f"<{action}Result/>")
    return response


def _refuse(message: str) -> Response:
    response: Response = autoscaling._error("ValidationError", escape(message))
    return response


if __name__ == "__main__":
    actions: dict[str, Callable[[dict[str, str]], Response]] = autoscaling._ACTION_MAP
    actions["TerminateInstanceInAutoScalingGroup"] = terminate_instance
    actions["SetInstanceHealth"] = set_instance_health
    actions["CompleteLifecycleAction"], actions["RecordLifecycleActionHeartbeat"] = HOOKS.complete, HOOKS.beat
    polls = LongPolls()
    sqs._act_send_message = sqs._HANDLERS["SendMessage"] = polls.send
    sqs._HANDLERS["ReceiveMessage"] = polls.receive
    reads = RangedReads()
    s3._read_body, s3._get_object, s3._upload_part_copy = reads.read, reads.get, reads.copy
    app._read_request_body, app._send_response = read_request_body, send_response
    Config.graceful_timeout = 0.2  # its last clients are long polls that nobody waits for
    app.main()
