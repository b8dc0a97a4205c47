"""The place of a record in its object: a byte of the text or, for compressed blocks, a byte of a block's text.

The amount of text before a block is unknown unless all of it is read. So a block is named by its compressed byte.
"""

from array import array
from bisect import bisect_right
from pathlib import Path
from typing import BinaryIO, NotRequired, TypedDict


class Source(TypedDict):
    """The object that a file is a part of, and the byte of the object's text at which the file begins, if known.

    If the part is made of compressed blocks, `blocks` is the path of an index of them.
    """

    uri: str
    byte: int | None
    blocks: NotRequired[str]


def note_block(index: BinaryIO, block: int, begin: int) -> None:
    """Add a block: its compressed byte in the object, and the byte of the part's file at which its text begins."""
    array("q", (block, begin)).tofile(index)


class Places:
    """Maps places in a part's file to places in its source."""

    def __init__(self, source: Source) -> None:
        self._byte = source["byte"]
        noted = array("q", Path(source["blocks"]).read_bytes() if "blocks" in source else b"")
        self._blocks, self._begins = noted[::2], noted[1::2]

    def find(self, offset: int) -> dict[str, int]:
        """The place of the byte at this offset of the file; empty if it can't be told."""
        if self._blocks:
            number = bisect_right(self._begins, offset) - 1  # if several begin here, the last: the others are empty
            return {"block": self._blocks[number], "block_byte": offset - self._begins[number]}
        return {} if self._byte is None else {"byte": self._byte + offset}
