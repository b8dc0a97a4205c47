"""What NOTIFY tells, heard by one connection: https://www.postgresql.org/docs/current/sql-notify.html."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

import asyncpg
import structlog

from services.platform.concurrency import is_cancelled
from services.platform.database import UNAVAILABLE, connect_alone
from services.platform.database_access import Place

log = structlog.get_logger()

RETRY_SECONDS = 1.0

_DATABASE: tuple[type[BaseException], ...] = (*UNAVAILABLE, asyncpg.PostgresError)


async def listen(
    place: Place,
    seconds: float,
    channels: Collection[str],
    notified: Callable[[str, str], None],
    heard: Callable[[bool], None],
) -> None:
    """Call `notified` with channel and payload of each notification, until cancelled.

    `heard` is called with True whenever that begins: what was notified before is lost, so look at once; and with False
    when it ends, as while the database is down. A connection that has nothing to say may have fallen silent for good:
    it is asked each `seconds`.
    """

    def tell(connection: object, pid: int, channel: str, payload: object) -> None:
        notified(channel, str(payload))

    while not is_cancelled():
        try:
            connection = await connect_alone(place, seconds)
            try:
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                for channel in channels:
                    await connection.add_listener(channel, tell)
                heard(True)
                while not lost.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await lost.wait()
                    if not await connection.answers():
                        break
            finally:
                heard(False)
                connection.terminate()
        except _DATABASE as error:
            log.debug("not listening", error=repr(error))
        await asyncio.sleep(RETRY_SECONDS)
