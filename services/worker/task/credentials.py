"""AWS credentials for tasks, of a role of their own (PIECEWORK_TASK_ROLE): the worker assumes it, and nobody else's.

Tasks fetch them as on Amazon ECS, from an address that two variables name, so that the AWS SDKs renew them by
themselves: https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

import asyncio
import hmac
import re
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError

from services.platform.aws import open_client
from services.platform.s3_faults import error_code
from services.platform.settings import WorkerSettings

log = structlog.get_logger()

# Where SDKs ask without TLS. The second is that of Amazon ECS: containers have a loopback of their own.
LOOPBACK = "127.0.0.1"
FOR_CONTAINERS = "169.254.170.2"

_SESSION_SECONDS = 3600  # the most that a role may have which another role assumes
_RENEW_SECONDS = 1800.0  # SDKs ask again from 900 s before the end on
_FETCH_SECONDS = 30.0
_PATH = "/credentials"
_UNREACHABLE = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError)


class RoleRefused(Exception):
    """The worker may not assume the tasks' role; the message says what to allow."""


class TaskCredentials:
    """The role's credentials, kept and renewed while tasks ask for them. Without a role there are none."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._token = secrets.token_urlsafe(32)  # so that other users of the machine get none
        self._renewing = asyncio.Lock()
        self._kept: dict[str, Any] | None = None
        app = web.Application()
        app.router.add_get(_PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Raises RoleRefused. If STS is away, tasks may still work that ask for nothing."""
        await self._runner.setup()
        if not self._settings.task_role:
            return
        try:
            await self.current()
        except ClientError as error:
            if "AccessDenied" in error_code(error):
                raise RoleRefused(
                    f"the worker may not assume the role {self._settings.task_role} (PIECEWORK_TASK_ROLE): allow its "
                    f"own role sts:AssumeRole on it, and let the role trust that one: {error}"
                ) from None
            log.warning("the tasks' role is not assumed yet", error=str(error))
        except _UNREACHABLE as error:
            log.warning("the tasks' role is not assumed yet", error=repr(error))

    async def close(self) -> None:
        await self._runner.cleanup()

    async def variables(self, host: str) -> dict[str, str]:
        """What tells tasks where to ask, at an address of this machine from now on. Raises OSError if it has it not."""
        if not self._settings.task_role:
            return {}
        listener = socket.create_server((host, 0))
        await web.SockSite(self._runner, listener).start()
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{host}:{listener.getsockname()[1]}{_PATH}",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self._token,
        }

    async def current(self) -> dict[str, Any]:
        """For half an hour at least; for less only while STS gives no others. Raises what its client raises."""
        async with self._renewing:
            if self._kept is None or _left_seconds(self._kept) < _RENEW_SECONDS:
                try:
                    self._kept = await self._assume()
                except _UNREACHABLE as error:
                    if self._kept is None or _left_seconds(self._kept) <= 0:
                        raise
                    log.warning("the tasks' credentials are not renewed", error=repr(error))
            return self._kept

    async def _assume(self) -> dict[str, Any]:
        name = re.sub(r"[^A-Za-z0-9_+=,.@-]", "-", f"piecework-{self._settings.pool}-{socket.gethostname()}")
        async with asyncio.timeout(_FETCH_SECONDS), open_client("sts", self._settings, None) as sts:
            answer = await sts.assume_role(
                RoleArn=self._settings.task_role, RoleSessionName=name[:64], DurationSeconds=_SESSION_SECONDS
            )
        found: dict[str, Any] = answer["Credentials"]
        return found

    async def _answer(self, request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), self._token.encode()):
            return _refuse(401, "Unauthorized", "AWS_CONTAINER_AUTHORIZATION_TOKEN of the task's environment is needed")
        try:
            found = await self.current()
        except _UNREACHABLE as error:
            log.warning("a task gets no credentials", error=repr(error))
            return _refuse(503, "ServiceUnavailable", f"the worker can't assume {self._settings.task_role}: {error}")
        return web.json_response(
            {
                "RoleArn": self._settings.task_role,
                "AccessKeyId": found["AccessKeyId"],
                "SecretAccessKey": found["SecretAccessKey"],
                "Token": found["SessionToken"],
                "Expiration": f"{found['Expiration'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            }
        )


def _left_seconds(credentials: dict[str, Any]) -> float:
    left: float = (credentials["Expiration"] - datetime.now(UTC)).total_seconds()
    return left


def _refuse(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)


@asynccontextmanager
async def task_credentials(settings: WorkerSettings) -> AsyncIterator[TaskCredentials]:
    """Answers tasks for the time of the context. Raises RoleRefused."""
    credentials = TaskCredentials(settings)
    try:
        await credentials.start()
        yield credentials
    finally:
        await credentials.close()
