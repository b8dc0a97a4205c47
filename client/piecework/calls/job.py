"""A job of calls that goes on without the program that started it, and its results wherever they are asked for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from piecework.calls.errors import error_of
from piecework.calls.values import value_of, values_of

if TYPE_CHECKING:
    from piecework.client import Client


class MapJob:
    """The calls of a job by its `id`. `cursor` is where its results were read to: a later program can go on there."""

    def __init__(self, client: "Client", id: UUID | str) -> None:
        self._client = client
        self.id = str(id)
        self.cursor: str | None = None

    def results(self, after: str | None = None, *, errors: bool = False) -> Iterator[tuple[int, Any]]:
        """The number of each item with its value, in the order in which the calls end, until the job has ended.

        A call that failed raises its exception, unless `errors` asks for it in place of the value. Waits as long as
        the job takes; what has ended is there at once.
        """
        self.cursor = after
        for portion in values_of(self._client, self.id, after):
            for value in portion["values"]:
                if value["state"] == "succeeded":
                    yield value["index"], value_of(self._client, value)
                    continue
                error = error_of(value, self.id, 0)
                if not errors:
                    raise error
                yield value["index"], error
            self.cursor = portion["after"]

    def cancel(self) -> None:
        self._client.cancel_job(self.id)


def attach(job_id: UUID | str, client: "Client | None" = None) -> MapJob:
    """The results of a job of calls that was started before, by the client of this environment unless one is given."""
    from piecework.client import Client

    return MapJob(client or Client(), job_id)
