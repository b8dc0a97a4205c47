"""The values of the secrets that a processor names, fetched for its tasks and kept for minutes: changes are seen."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

from services.contract.secret import Reference
from services.contract.task_error import TaskError
from services.platform.secret_values import BYTES_MAX, Unresolved, fetch_from_aws, read_text
from services.platform.settings import WorkerSettings
from services.worker.task.masking import SECRET_CHARACTERS_MIN

_KEPT_SECONDS = 300.0
_KEPT_MAX = 1000  # values; the oldest go first
VARIABLE_PREFIX = "PIECEWORK_SECRET_"


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
        except Unresolved as error:
            raise _failure(name, text, str(error), retryable=error.passing) from None
        self._kept.pop(text, None)
        while len(self._kept) >= _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[text] = time.monotonic(), value
        return value

    async def _fetch(self, reference: Reference) -> str:
        if reference.name.startswith("arn:") and reference.name in (self._settings.database_password_from or ""):
            raise Unresolved("it is the grid's own, for the worker alone")
        if reference.source == "env":
            return _from_variable(reference.name)
        if reference.source == "file":
            return await asyncio.to_thread(_from_file, Path(self._settings.secrets), reference.name)
        return await fetch_from_aws(reference, self._settings)


def _from_variable(name: str) -> str:
    value = os.environ.get(VARIABLE_PREFIX + name)
    if value is None:
        raise Unresolved(f"set {VARIABLE_PREFIX}{name} in the worker's environment")
    return value


def _from_file(directory: Path, name: str) -> str:
    """A file below the directory; a link may not lead out of it (Kubernetes links to a directory beside)."""
    try:
        path = (directory / name).resolve(strict=True)
        if not path.is_relative_to(directory.resolve()):
            raise Unresolved(f"it leads out of {directory}")
        return read_text(path)
    except OSError as error:
        message = f"{error.strerror}: put it into {directory} (PIECEWORK_SECRETS), readable for the worker"
        raise Unresolved(message) from None


def _check(value: str) -> None:
    if len(value.encode()) > BYTES_MAX:
        raise Unresolved(f"its value has more than {BYTES_MAX} bytes")
    if "\0" in value:
        raise Unresolved("its value has a NUL character, which no variable can hold")
    if len(value) < SECRET_CHARACTERS_MIN:
        raise Unresolved(
            f"its value has fewer than {SECRET_CHARACTERS_MIN} characters, too few to be masked in logs; what is that "
            "short belongs in `environment`"
        )


def _failure(name: str, reference: str, reason: str, *, retryable: bool) -> TaskError:
    message = f"the secret {name} ({reference}) is not available: {reason}"
    return TaskError("secret_unavailable", message, retryable=retryable, excused=retryable)
