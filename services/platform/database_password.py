"""Passwords of the database that change while services run: tokens of IAM, and secrets that are rotated."""

import asyncio
import time
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from services.platform.settings import Settings

_AGAIN_SECONDS = 1.0  # the least time between two readings of a secret, however many connections are refused
_TOKEN_SECONDS = 900  # what RDS allows
_PORT = 5432


class NoPassword(Exception):
    """Why there is none now, and what to do."""


class Password(Protocol):
    """Where the password of each new connection comes from. Both raise NoPassword."""

    async def current(self) -> str: ...

    async def renewed(self, refused: str) -> bool:
        """Whether there is another one than this, which the server refuses."""
        ...


class IamToken:
    """A token of RDS for the process's role, signed here: no request is made.

    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.Connecting.html
    """

    def __init__(self, host: str, port: int, user: str) -> None:
        self._host, self._port, self._user = host, port, user

    async def current(self) -> str:
        from services.platform.aws import find_credentials  # it takes long to import, and not everybody needs it
        from services.platform.s3_faults import S3_ERRORS

        try:
            credentials, region = await find_credentials()
        except S3_ERRORS as error:
            raise NoPassword(f"AWS gives this process no credentials now: {error}") from None
        if credentials is None or region is None:
            raise NoPassword(f"the process has no AWS {'credentials' if credentials is None else 'region'}")
        return sign_token(credentials, region, self._host, self._port, self._user)

    async def renewed(self, refused: str) -> bool:
        return False


def sign_token(credentials: Any, region: str, host: str, port: int, user: str) -> str:
    """A presigned request `connect`, without its scheme (AWS Signature Version 4)."""
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("GET", f"https://{host}:{port}/", params={"Action": "connect", "DBUser": user})
    SigV4QueryAuth(credentials, "rds-db", region, expires=_TOKEN_SECONDS).add_auth(request)
    return str(request.url).removeprefix("https://")


class StoredPassword:
    """A password in a file or in AWS, read when it is first needed, and again when the server refuses it."""

    def __init__(self, source: str, settings: Settings) -> None:
        self._source, self._settings = source, settings
        self._value: str | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def current(self) -> str:
        if self._value is None:
            await self.renewed("")
        if self._value is None:
            raise NoPassword("it could not be read a moment ago")
        return self._value

    async def renewed(self, refused: str) -> bool:
        async with self._reading:
            if self._value in (None, refused) and time.monotonic() >= self._read_at + _AGAIN_SECONDS:
                self._read_at = time.monotonic()
                self._value = await self._read()
        return self._value not in (None, refused)

    async def _read(self) -> str:
        from services.platform.secret_values import Unresolved, resolve_own

        try:
            value = await resolve_own(self._source, self._settings)
        except Unresolved as error:
            raise NoPassword(str(error)) from None
        if value.startswith("{"):
            raise NoPassword('it is a JSON object: name the key that has the password, as in "ARN#password"')
        return value


_known: dict[tuple[str, str | None], StoredPassword] = {}  # one for all pools and connections of the process


def password_of(settings: Settings) -> Password | None:
    """As the settings say; None if the URL has it, or the server asks for none."""
    source = settings.database_password_from
    if source is None:
        return None
    if source == "iam":
        place = urlsplit(settings.database_url)
        return IamToken(place.hostname or "", place.port or _PORT, unquote(place.username or ""))
    return _known.setdefault((source, settings.aws_endpoint_url), StoredPassword(source, settings))
