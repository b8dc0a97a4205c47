"""The gate: a proxy in front of an emulator that knows a caller by its access key and refuses what AWS would refuse."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from xml.sax.saxutils import escape

import orjson
from aiohttp import web

from services.platform.aws import connect_aws
from services.platform.settings import Settings
from tests.aws.gate.calls import ACCOUNT, REGION, Call, Group, Request, caller_of, read_call
from tests.aws.gate.policy import Need, Policies, UnknownToGate
from tests.storm.aws_proxy import AwsProxy
from tests.storm.journal import Journal

Refusal = tuple[str, str, str, str]  # the role, the operation, the action, the resource


class Gate(AwsProxy):
    """Each role's access key is its name. The secret is the one that the emulator checks links by.

    `refused` and `unknown` say what was; `needs` and `operations` what was allowed, by role. The next call of a role
    that `fails` names fails for another reason.
    """

    def __init__(self, url: str, journal: Journal, roles: Mapping[str, Policies]) -> None:
        super().__init__(url, journal)
        self.roles = roles
        self.needs: dict[str, set[Need]] = defaultdict(set)
        self.operations: dict[str, set[str]] = defaultdict(set)
        self.refused: list[Refusal] = []
        self.unknown: list[str] = []
        self.fails: set[tuple[str, str]] = set()

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        self._aws = await self._stack.enter_async_context(connect_aws(Settings(aws_endpoint_url=self._target)))
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self._stack.aclose()

    def credentials(self, role: str) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": role, "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}

    def unused(self) -> list[str]:
        """What the roles' policies allow and no request has needed."""
        return [f"{role}: {part}" for role, each in self.roles.items() for part in each.unused(self.needs[role])]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except ConnectionError:  # whoever asked has been killed
            return web.Response()
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, request.raw_path.partition("?")[0], dict(request.query), headers, body)
        try:
            role, service = caller_of(asked)
            call = await read_call(asked, service, self._find_group)
            return await self._judge(request, role, call)
        except UnknownToGate as error:
            self.unknown.append(str(error))
            return web.Response(status=501, text=f"unknown to the gate: {error}")

    async def _judge(self, request: web.Request, role: str, call: Call) -> web.StreamResponse:
        policies = self.roles.get(role)
        if policies is None:
            raise UnknownToGate(f"the access key {role}")
        denied = [need for need in call.needs if not policies.allow(need)]
        self.refused += [(role, call.operation, need.action, need.resource) for need in denied]
        if denied:
            return _deny(role, call, denied, head=request.method == "HEAD")
        self.needs[role].update(call.needs)
        self.operations[role].add(call.operation)
        if (role, call.operation) in self.fails:
            self.fails.remove((role, call.operation))
            return web.Response(status=400, text="<Error><Code>InvalidPart</Code></Error>")
        answer = await super()._handle(request)
        if answer.status == 404 and (hidden := _hidden(policies, call, answer)):
            self.refused.append((role, call.operation, hidden.action, hidden.resource))
            return _deny(role, call, [hidden], head=request.method == "HEAD")
        return answer

    async def _find_group(self, name: str | None, instance: str | None) -> Group | None:
        groups = (await self._aws.autoscaling.describe_auto_scaling_groups())["AutoScalingGroups"]
        for group in groups:
            if group["AutoScalingGroupName"] == name or any(
                each["InstanceId"] == instance for each in group["Instances"]
            ):
                tags = {tag["Key"]: tag["Value"] for tag in group.get("Tags", [])}
                return Group(group["AutoScalingGroupARN"], tags)
        return None


def _hidden(policies: Policies, call: Call, answer: web.StreamResponse) -> Need | None:
    """The listing without which S3 does not tell this caller that an object is missing."""
    reads = [need for need in call.needs if need.action.startswith("s3:GetObject")]
    if not reads or (call.operation != "HeadObject" and b"NoSuchKey" not in _body(answer)):
        return None
    listing = Need("s3:ListBucket", reads[-1].resource.partition("/")[0])
    return None if policies.allow(listing) else listing


def _body(answer: web.StreamResponse) -> bytes:
    body: Any = answer.body if isinstance(answer, web.Response) else b""
    return body if isinstance(body, bytes) else b""


def _deny(role: str, call: Call, denied: Sequence[Need], *, head: bool) -> web.Response:
    """As each service words it, so that clients raise what they do on AWS."""
    need = denied[0]
    message = escape(
        f"User: arn:aws:sts::{ACCOUNT}:assumed-role/{role}/session is not authorized to perform: {need.action} "
        f"on resource: {need.resource} because no identity-based policy allows the {need.action} action"
    )
    match call.service:
        case "s3" if call.operation == "DeleteObjects":
            return _deny_deletions(call, denied, message)
        case "s3":
            error = f"<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>"
            return web.Response(status=403, text="" if head else error, content_type="application/xml")
        case "autoscaling" | "sts":
            error = f"<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{message}</Message></Error>"
            error = f"<ErrorResponse>{error}</ErrorResponse>"
            return web.Response(status=403, text=error, content_type="application/xml")
        case "sqs":
            headers = {"x-amzn-query-error": "AccessDenied;Sender"}
            body = orjson.dumps({"__type": "com.amazon.coral.service#AccessDeniedException", "message": message})
            return web.Response(status=403, body=body, headers=headers, content_type="application/x-amz-json-1.0")
    body = orjson.dumps({"__type": "AccessDeniedException", "Message": message})
    return web.Response(status=400, body=body, content_type="application/x-amz-json-1.1")


def _deny_deletions(call: Call, denied: Sequence[Need], message: str) -> web.Response:
    """DeleteObjects succeeds as a whole, and says of each key that it may not be deleted."""
    if len(denied) < len(call.needs):
        raise UnknownToGate("DeleteObjects of keys that may be deleted and others that may not")
    keys = [escape(need.resource.partition("/")[2]) for need in denied]
    errors = [f"<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>{message}</Message></Error>" for key in keys]
    return web.Response(text=f"<DeleteResult>{''.join(errors)}</DeleteResult>", content_type="application/xml")
