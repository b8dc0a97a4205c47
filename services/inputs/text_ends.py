"""How a text begins and ends: what must be known to put another text behind it without making one line of two."""

import codecs
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from services.inputs.lines.files import compression_of, decompressed
from services.inputs.magic import HEAD_BYTES, has_control_characters, looks_like_text, recognise
from services.inputs.registry import format_of
from services.platform.decompress import DamagedStream

_TAIL_BYTES = 65_536  # most likely holds the last line, and the end of the one before, which is of the same kind
_READ_BYTES = 1 << 20
_WIDE = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class TextEnds(NamedTuple):
    """The byte order mark, and the line end that the last line lacks; empty if there is none, or if none is lacking.

    Behind compressed text, the line end is compressed, too: a member of its own.
    """

    mark: bytes = b""
    missing_end: bytes = b""

    @property
    def is_wide(self) -> bool:
        """Whether a character, and so a line end, has two bytes."""
        return self.mark in _WIDE


def holds_lines(name: str) -> bool | None:
    """Whether a file of this name is text, compressed or not; None if the name does not tell."""
    found = format_of(name)
    return None if found is None else found.folder == "lines" and found.name != "fixed"


def file_ends(path: Path) -> TextEnds | None:
    """None if the file is not text, by its name or, if that does not tell, by its first and last bytes."""
    with path.open("rb") as file:
        return ends_of(file, path.name)


def ends_of(opened: BufferedReader, name: str) -> TextEnds | None:
    """Like `file_ends`, of an open file, at its beginning."""
    named = holds_lines(name)
    if named is False:
        return None
    try:
        file = decompressed(opened, PurePath(name))
        head, tail = _edges(file)
        compression = compression_of(file)
    except DamagedStream:
        return TextEnds() if named else None
    ends = text_ends(head, tail)
    if named is None and not ends.is_wide and (not looks_like_text(head) or has_control_characters(tail)):
        return None
    return ends if compression is None else TextEnds(b"", _compress(ends.missing_end, compression))


def text_ends(head: bytes, tail: bytes) -> TextEnds:
    """Of a text that begins with `head` and ends with `tail`; what is not text, whatever its name, lacks nothing."""
    mark = next((mark for mark in (codecs.BOM_UTF8, *_WIDE) if head.startswith(mark)), b"")
    if recognise(head) is not None and mark not in _WIDE:
        return TextEnds()
    encoding = _WIDE.get(mark, "ascii")
    end, return_ = "\n".encode(encoding), "\r".encode(encoding)
    if not tail or tail.endswith(end):
        return TextEnds(mark)
    before = tail.rfind(end)
    follows = before >= 0 and tail[:before].endswith(return_) and not tail.endswith(return_)
    return TextEnds(mark, return_ + end if follows else end)


def _edges(file: BinaryIO) -> tuple[bytes, bytes]:
    """The first and last bytes; a compressed file is read from its beginning to its end for them."""
    head = file.read(HEAD_BYTES)
    if compression_of(file) is None:
        file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
        return head, file.read(_TAIL_BYTES)
    tail = head
    while piece := file.read(_READ_BYTES):
        tail = (tail + piece)[-_TAIL_BYTES:]
    return head, tail


def _compress(end: bytes, compression: str) -> bytes:
    import bz2
    import gzip
    import lzma

    import zstandard  # loaded only when needed

    compressors: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, mtime=0),
        "zstd": zstandard.compress,
        "bzip2": bz2.compress,
        "xz": lzma.compress,
    }
    return compressors[compression](end) if end else b""
