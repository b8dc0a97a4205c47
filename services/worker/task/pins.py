"""What all tasks of a job agree on: the first worker that needs it says it, in an object that only one can create."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from services.contract.layout import Layout
from services.contract.location import Location
from services.platform.s3_faults import S3_ERRORS, error_code, fault_of
from services.platform.transfer import input_error


class Pins:
    """Short texts of jobs, by name."""

    def __init__(self, s3: Any, layout: Layout) -> None:
        self._s3 = s3
        self._layout = layout

    async def agree(self, job_id: UUID, name: str, find: Callable[[], Awaitable[str]]) -> str:
        """What is pinned under the name; if nothing is, what `find` returns, unless another worker is faster.

        Raises TaskError (input_forbidden, input_unavailable), and what `find` raises.
        """
        pin = self._layout.pin(job_id, hashlib.sha256(name.encode()).hexdigest()[:32])
        if (text := await self._read(pin)) is not None:
            return text
        text = await find()
        return text if await self._put_first(pin, text) else await self._read(pin) or text

    async def _read(self, pin: Location) -> str | None:
        try:
            answer = await self._s3.get_object(Bucket=pin.bucket, Key=pin.key)
            async with answer["Body"] as body:
                return bytes(await body.read()).decode()
        except S3_ERRORS as error:
            if fault_of(error) == "missing":
                return None
            raise input_error(pin, None, error) from None

    async def _put_first(self, pin: Location, text: str) -> bool:
        """False if another worker was first."""
        try:
            await self._s3.put_object(Bucket=pin.bucket, Key=pin.key, Body=text.encode(), IfNoneMatch="*")
        except S3_ERRORS as error:
            if error_code(error) in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            raise input_error(pin, None, error) from None
        return True
