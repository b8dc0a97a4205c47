"""Where a stream of records is cut: what the `cut` of a format that needs to see every byte is made of."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Cut:
    """A place in the text where a part ends and the next one begins, behind the `header`, if there is one.

    `footer` goes behind the part that ends there.
    """

    position: int
    header: str | None = None
    footer: str | None = None


class Cutter(Protocol):
    """Fed with all bytes of a text in order."""

    format: str
    options: dict[str, Any]  # what a reader of the parts has to know

    def feed(self, data: bytes) -> tuple[bytes, list[Cut]]:
        """Text that belongs to parts, and the cuts in it; with the first of them the first part begins.

        Raises SplitError.
        """

    def finish(self) -> tuple[bytes, list[Cut]]:
        """The rest. Raises SplitError."""
