"""Footers of files that describe their content at the end: read by one or two small reads."""

from collections.abc import Callable

from services.inputs.chunk import SplitError
from services.inputs.magic import HEAD_BYTES, looks_like_text, recognise
from services.platform.reads import PinnedObject

TAIL_BYTES = 65_536  # holds most footers

# Given a file's URI, its last bytes, and its size: the length of its footer, its end included. Raises SplitError.
FooterBytes = Callable[[str, bytes, int], int]


async def read_footer(object_: PinnedObject, footer_bytes: FooterBytes) -> bytes:
    """Raises SplitError, and the errors of S3's client."""
    uri, size = object_.location.uri, object_.size
    tail = await object_.read(max(0, size - TAIL_BYTES), size)
    try:
        length = footer_bytes(uri, tail, size)
    except SplitError as error:
        head = await object_.read(0, HEAD_BYTES)
        if (found := recognise(head)) is None and not (head and looks_like_text(head)):
            raise
        begin = f"{found.name}: {found.fix}" if found else "text: use an input of type lines"
        raise type(error)(f"{error}. It begins like {begin}") from None
    if length > len(tail):
        tail = await object_.read(size - length, size)
    return tail[-length:]
