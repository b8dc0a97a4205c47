"""What the calls of a job have returned, as the API tells it."""

import json
from typing import TYPE_CHECKING, Any

from piecework.shapes import Value

if TYPE_CHECKING:
    from piecework.client import Client

WAIT_SECONDS = 20.0  # of a request for the next value


def value_of(client: "Client", value: Value) -> Any:
    """The value itself; read from its object if it is one, which raises the errors of the client, and ValueError."""
    return value["value"] if value["url"] is None else json.loads(client.read_object(value["url"]))
