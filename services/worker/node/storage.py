"""Whether this node reaches S3. While it does not, it takes no tasks, since others may reach it."""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from services.platform.transfer import find_outage
from services.worker.node.outage import Outage

ASK_SECONDS = 5.0

# The errors of tasks for which S3 could not be reached.
_UNREACHED = ("input_unavailable", "output_unavailable")


class Storage:
    """`reached` is set unless an attempt could not reach S3 and nor can the node itself, which `run` finds out.

    `changed` is called when the node takes tasks again.
    """

    def __init__(self, s3: Any, bucket: str, changed: Callable[[], None]) -> None:
        self.reached = True
        self._s3 = s3
        self._bucket = bucket
        self._changed = changed
        self._doubted = asyncio.Event()

    def note(self, error: dict[str, Any] | None) -> None:
        """Note why an attempt has ended."""
        if error is not None and error["type"] in _UNREACHED:
            self._doubted.set()

    async def run(self) -> NoReturn:
        """Look whenever it is in doubt, until cancelled."""
        while True:
            await self._doubted.wait()
            outage = Outage("S3")
            while (error := await find_outage(self._s3, self._bucket, ASK_SECONDS)) is not None:
                self.reached = False
                await outage.failed(error)
            outage.passed()
            self.reached = True
            self._doubted.clear()
            self._changed()
