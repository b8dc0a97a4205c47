"""What the calls of a job have returned, as the API tells it."""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from piecework.errors import ServerError, TransportError
from piecework.shapes import Value, Values

if TYPE_CHECKING:
    from piecework.client import Client

WAIT_SECONDS = 20.0  # that an answer of values goes on
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.05, 5.0  # before a request that failed is made again


def value_of(client: "Client", value: Value) -> Any:
    """The value itself; read from its object if it is one, which raises the errors of the client, and ValueError."""
    return value["value"] if value["url"] is None else json.loads(client.read_object(value["url"]))


def values_of(client: "Client", job_id: str, after: str | None = None, *, is_known: bool = False) -> Iterator[Values]:
    """How the calls of a job end, in portions, until the job has ended, however long the API is away meanwhile.

    Unless the job `is_known` to be there, the first request raises errors of the connection.
    """
    pause, ended = PAUSE_SECONDS, False
    while not ended:
        has_come = False
        try:
            for portion in client.stream_values(job_id, after=after, wait=WAIT_SECONDS):
                has_come = is_known = True
                pause = PAUSE_SECONDS
                after, ended = portion["after"], portion["ended"]
                yield portion
        except (TransportError, ServerError):
            if not is_known:
                raise
        if not has_come:
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
