"""The values behind references to secrets (services/contract/secret.py): in files, and in AWS."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from botocore.exceptions import BotoCoreError, ClientError

from services.contract.secret import Reference
from services.platform.aws import open_client
from services.platform.s3_faults import error_code
from services.platform.settings import Settings

BYTES_MAX = 65_536  # of a value: what Secrets Manager allows; a file that is larger is something else
_FETCH_SECONDS = 30.0

_UNREACHABLE = (BotoCoreError, aiohttp.ClientError, OSError, TimeoutError)
_PASSING = (
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "InternalServiceError",
    "ServiceUnavailable",
)
_ACTIONS = {"secretsmanager": "secretsmanager:GetSecretValue", "ssm": "ssm:GetParameter"}


class Unresolved(Exception):
    """Why a reference has no value, and what to do; a later try may succeed if it is `passing`."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


async def fetch_from_aws(reference: Reference, settings: Settings) -> str:
    """The value of a secret or a parameter of AWS. Raises Unresolved."""
    try:
        async with asyncio.timeout(_FETCH_SECONDS):
            return await _fetch(reference, settings)
    except ClientError as error:
        raise Unresolved(_refusal(reference, error), passing=error_code(error) in _PASSING) from None
    except _UNREACHABLE as error:
        raise Unresolved(f"it can't be reached now ({type(error).__name__})", passing=True) from None


async def _fetch(reference: Reference, settings: Settings) -> str:
    if reference.source == "ssm":
        async with open_client("ssm", settings, reference.region) as ssm:
            answer = await ssm.get_parameter(Name=reference.name, WithDecryption=True)
        return str(answer["Parameter"]["Value"])
    wanted = {"SecretId": reference.name, "VersionStage": reference.stage, "VersionId": reference.version}
    async with open_client("secretsmanager", settings, reference.region) as secretsmanager:
        answer = await secretsmanager.get_secret_value(**{name: value for name, value in wanted.items() if value})
    if "SecretString" not in answer:
        raise Unresolved("it is binary; store text")
    return str(answer["SecretString"]) if reference.key is None else _of_key(answer["SecretString"], reference.key)


def _of_key(text: str, key: str) -> str:
    try:
        found: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise Unresolved("its value is not a JSON object, but the reference names a key of one")
    if key not in found:
        raise Unresolved(f"its JSON object has no key {key!r}")
    return found[key] if isinstance(found[key], str) else orjson.dumps(found[key]).decode()


def read_text(path: Path) -> str:
    """A file's text without the last line's end. Raises Unresolved and OSError."""
    with path.open("rb") as file:
        if not path.is_file():
            raise Unresolved("it is not a file")
        body = file.read(BYTES_MAX + 1)
    if len(body) > BYTES_MAX:
        raise Unresolved(f"its value has more than {BYTES_MAX} bytes")
    try:
        return body.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise Unresolved("it is not text in UTF-8") from None


def _refusal(reference: Reference, error: ClientError) -> str:
    """AWS's reason in its code; its message may hold more than users need."""
    code, action = error_code(error), _ACTIONS[reference.source]
    if "AccessDenied" in code:
        return f"{code}: allow this process's role {action} on it, and kms:Decrypt on its key"
    if "NotFound" in code:
        return f"{code}: there is none of this name, version or region"
    return code


async def resolve_own(source: str, settings: Settings) -> str:
    """The value of a secret of the grid's own (`file:/PATH`, or an ARN). Raises Unresolved."""
    if not source.startswith("file:"):
        return await fetch_from_aws(Reference.parse(source), settings)
    try:
        return await asyncio.to_thread(read_text, Path(source.removeprefix("file:")))
    except OSError as error:
        raise Unresolved(f"it can't be read: {error.strerror}") from None
