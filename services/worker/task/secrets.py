"""The values of the secrets that a processor names, fetched for its tasks and kept for minutes: changes are seen."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from botocore.exceptions import BotoCoreError, ClientError

from services.contract.secret import Reference
from services.contract.task_error import TaskError
from services.platform.aws import open_client
from services.platform.s3_faults import error_code
from services.platform.settings import WorkerSettings
from services.worker.task.masking import SECRET_CHARACTERS_MIN

_KEPT_SECONDS = 300.0
_KEPT_MAX = 1000  # values; the oldest go first
_BYTES_MAX = 65_536  # of a value: what Secrets Manager allows; a file that is larger is something else
_FETCH_SECONDS = 30.0
_VARIABLE_PREFIX = "PIECEWORK_SECRET_"

_UNREACHABLE = (BotoCoreError, aiohttp.ClientError, OSError, TimeoutError)
_PASSING = (
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "InternalServiceError",
    "ServiceUnavailable",
)
_ACTIONS = {"secretsmanager": "secretsmanager:GetSecretValue", "ssm": "ssm:GetParameter"}


class _Unresolved(Exception):
    """Why a reference has no value, and what to do."""


class Secrets:
    """Resolves references; one for all tasks of a node."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._kept: dict[str, tuple[float, str]] = {}  # the oldest first

    async def resolve(self, references: Mapping[str, str]) -> dict[str, str]:
        """The values by name. Raises TaskError (secret_unavailable), which names the reference, never the value."""
        values = await asyncio.gather(*(self._resolve(name, text) for name, text in references.items()))
        return dict(zip(references, values, strict=True))

    async def _resolve(self, name: str, text: str) -> str:
        kept_at, value = self._kept.get(text, (0.0, ""))
        if value and time.monotonic() < kept_at + _KEPT_SECONDS:
            return value
        try:
            value = await self._fetch(Reference.parse(text))
            _check(value)
        except _Unresolved as error:
            raise _failure(name, text, str(error), retryable=False) from None
        except ClientError as error:
            raise _failure(name, text, _refusal(text, error), retryable=error_code(error) in _PASSING) from None
        except _UNREACHABLE as error:
            reason = f"it can't be reached now ({type(error).__name__})"
            raise _failure(name, text, reason, retryable=True) from None
        self._kept.pop(text, None)
        while len(self._kept) >= _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[text] = time.monotonic(), value
        return value

    async def _fetch(self, reference: Reference) -> str:
        if reference.source == "env":
            return _from_variable(reference.name)
        if reference.source == "file":
            return await asyncio.to_thread(_from_file, Path(self._settings.secrets), reference.name)
        async with asyncio.timeout(_FETCH_SECONDS):
            return await self._from_aws(reference)

    async def _from_aws(self, reference: Reference) -> str:
        if reference.source == "ssm":
            async with open_client("ssm", self._settings, reference.region) as ssm:
                answer = await ssm.get_parameter(Name=reference.name, WithDecryption=True)
            return str(answer["Parameter"]["Value"])
        wanted = {"SecretId": reference.name, "VersionStage": reference.stage, "VersionId": reference.version}
        async with open_client("secretsmanager", self._settings, reference.region) as secretsmanager:
            answer = await secretsmanager.get_secret_value(**{name: value for name, value in wanted.items() if value})
        if "SecretString" not in answer:
            raise _Unresolved("it is binary; store text")
        return str(answer["SecretString"]) if reference.key is None else _of_key(answer["SecretString"], reference.key)


def _of_key(text: str, key: str) -> str:
    try:
        found: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise _Unresolved("its value is not a JSON object, but the reference names a key of one")
    if key not in found:
        raise _Unresolved(f"its JSON object has no key {key!r}")
    return found[key] if isinstance(found[key], str) else orjson.dumps(found[key]).decode()


def _from_variable(name: str) -> str:
    value = os.environ.get(_VARIABLE_PREFIX + name)
    if value is None:
        raise _Unresolved(f"set {_VARIABLE_PREFIX}{name} in the worker's environment")
    return value


def _from_file(directory: Path, name: str) -> str:
    """A file below the directory; a link may not lead out of it (Kubernetes links to a directory beside)."""
    try:
        path = (directory / name).resolve(strict=True)
        if not path.is_relative_to(directory.resolve()):
            raise _Unresolved(f"it leads out of {directory}")
        with path.open("rb") as file:
            if not path.is_file():
                raise _Unresolved("it is not a file")
            body = file.read(_BYTES_MAX + 1)
    except OSError as error:
        message = f"{error.strerror}: put it into {directory} (PIECEWORK_SECRETS), readable for the worker"
        raise _Unresolved(message) from None
    try:
        return body.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise _Unresolved("it is not text in UTF-8") from None


def _check(value: str) -> None:
    if len(value.encode()) > _BYTES_MAX:
        raise _Unresolved(f"its value has more than {_BYTES_MAX} bytes")
    if "\0" in value:
        raise _Unresolved("its value has a NUL character, which no variable can hold")
    if len(value) < SECRET_CHARACTERS_MIN:
        raise _Unresolved(
            f"its value has fewer than {SECRET_CHARACTERS_MIN} characters, too few to be masked in logs; what is that "
            "short belongs in `environment`"
        )


def _refusal(text: str, error: ClientError) -> str:
    """AWS's reason in its code; its message may hold more than users need."""
    code, action = error_code(error), _ACTIONS[Reference.parse(text).source]
    if "AccessDenied" in code:
        return f"{code}: allow the worker's role {action} on it, and kms:Decrypt on its key"
    if "NotFound" in code:
        return f"{code}: there is none of this name, version or region"
    return code


def _failure(name: str, reference: str, reason: str, *, retryable: bool) -> TaskError:
    message = f"the secret {name} ({reference}) is not available: {reason}"
    return TaskError("secret_unavailable", message, retryable=retryable, excused=retryable)
