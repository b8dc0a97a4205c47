"""What a child says in its sessions: a pipe of its own, which can be read to its end after the child has died.

On the socket that tasks are sent by, an answer could be lost: a failed write closes both of its directions.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

_READ_BYTES = 1 << 18
_TICK_SECONDS = 0.003  # between two looks while answers come: many are read at once


class Answers:
    """The worker's end of the pipe."""

    def __init__(self) -> None:
        self._read, self._theirs = os.pipe()
        os.set_blocking(self._read, False)
        self._looked_at = 0.0

    @contextmanager
    def inheriting(self) -> Iterator[int]:
        """The child's end, for one that is started within the context."""
        try:
            yield self._theirs
        except BaseException:
            self.close()
            raise
        finally:
            os.close(self._theirs)

    async def read(self, *, at_once: bool) -> bytes:
        """What has come; nothing once all its writers have ended.

        What comes after a pause is read at once. What comes soon after is gathered, as by a network card's interrupts,
        unless it is wanted `at_once`.
        """
        loop = asyncio.get_running_loop()
        if not at_once:
            await asyncio.sleep(self._looked_at + _TICK_SECONDS - loop.time())
        while True:
            try:
                read = os.read(self._read, _READ_BYTES)
                self._looked_at = loop.time()
                return read
            except BlockingIOError:
                pass
            ready = asyncio.Event()
            loop.add_reader(self._read, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self._read)

    def close(self) -> None:
        """Safe to repeat."""
        if self._read >= 0:
            os.close(self._read)
            self._read = -1
