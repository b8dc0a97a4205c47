"""Cuts in a stream of records: the interface of the `cut` modules, for formats that need to see every byte."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Cut:
    """A place in the text where a part ends and the next one begins; `header`, if any, goes before the next part.

    `footer` goes after the part that ends there.
    """

    position: int
    header: str | None = None
    footer: str | None = None


class Cutter(Protocol):
    """Cuts a text, of which it gets all bytes in order."""

    format: str
    options: dict[str, Any]  # options for the reader of the parts

    def feed(self, data: bytes) -> tuple[bytes, list[Cut]]:
        """Feed the next bytes; returns text of parts, and the cuts in it. The first cut starts the first part.

        Raises SplitError.
        """

    def finish(self) -> tuple[bytes, list[Cut]]:
        """Returns the rest of the text and its cuts. Raises SplitError."""
