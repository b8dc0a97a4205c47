"""What a file is by its first bytes: its name is only a hint.

Signatures: Parquet (apache/parquet-format, "File format"), Arrow ("IPC File Format", "IPC Streaming Format"), Avro
("Object Container Files"), ORC ("File Tail"), gzip (RFC 1952), zstd (RFC 8878), and the other formats' own pages.
"""

import codecs
import re
from typing import NamedTuple

from services.platform.decompress import BEGINS

HEAD_BYTES = 4096  # at most as many bytes are looked at

_NO_TEXT = re.compile(rb"[\x00-\x06\x0e-\x19]")  # the control characters that no text begins with
_SHORT_BYTES = 5  # letters that text may begin with, too: they count only with such characters near them
_NEAR_BYTES = 64
_TAR_AT = 257
_ARROW_STREAM = b"\xff\xff\xff\xff"


class Content(NamedTuple):
    """What a file is, for people, and what to do if it should have been text; its `compression` or record format."""

    name: str
    fix: str
    compression: str | None = None
    format: str | None = None

    def instead_of(self, wanted: str) -> str:
        """To follow the name of an object that was given as something else."""
        return f"begins like {self.name}, not like {wanted}: {self.fix}"


def _format(name: str, format: str) -> Content:
    return Content(name, f"use an input of type {format}", format=format)


_RECOMPRESS, _UNPACK, _EXPORT = (
    "compress it as gzip or zstd",
    "take the files out of it",
    "export it as text or Parquet",
)
_WHOLE = "compress it as gzip or zstd, or take it whole by type objects or manifest"
_COMPRESSIONS = {
    "gzip": "set compression: gzip (or none if it is not)",
    "zstd": "set compression: zstd (or none if it is not)",
    "bzip2": _WHOLE,
    "xz": _WHOLE,
}
_ZIP = Content("zip", _UNPACK)
_WIDE = {
    name: Content(f"{name} text", "its lines can't be told by their bytes, so convert it to UTF-8")
    for name in ("UTF-16", "UTF-32")
}
_SIGNATURES: dict[bytes, Content] = {
    **{begin: Content(name, fix, compression=name) for name, fix in _COMPRESSIONS.items() for begin in BEGINS[name]},
    b"PAR1": _format("Parquet", "parquet"),
    b"ARROW1\0\0": _format("an Arrow file", "arrow"),
    _ARROW_STREAM: _format("an Arrow stream", "arrow"),
    b"Obj\x01": _format("Avro", "avro"),
    b"ORC": _format("ORC", "orc"),
    b"PARE": Content("Parquet with an encrypted footer", "write it without encryption"),
    b"\x04\x22\x4d\x18": Content("lz4", _RECOMPRESS),
    b"\x02\x21\x4c\x18": Content("lz4", _RECOMPRESS),
    b"\x1f\x9d": Content("compress (.Z)", _RECOMPRESS),
    b"LZIP\x01": Content("lzip", _RECOMPRESS),
    b"\x89LZO": Content("lzop", _RECOMPRESS),
    b"\xff\x06\x00\x00sNaPpY": Content("snappy", _RECOMPRESS),
    b"PK\x03\x04": _ZIP,
    b"PK\x05\x06": _ZIP,
    b"7z\xbc\xaf\x27\x1c": Content("7-Zip", _UNPACK),
    b"Rar!\x1a\x07": Content("RAR", _UNPACK),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": Content("a file of Excel or Word", _EXPORT),
    b"SQLite format 3\0": Content("SQLite", _EXPORT),
    b"SEQ\x06": Content("a Hadoop SequenceFile", _EXPORT),
    b"\x89HDF\r\n\x1a\n": Content("HDF5", _EXPORT),
    b"%PDF-": Content("PDF", "use a command or callable"),
}
_MARKS = {
    codecs.BOM_UTF32_LE: _WIDE["UTF-32"],  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: _WIDE["UTF-32"],
    codecs.BOM_UTF16_LE: _WIDE["UTF-16"],
    codecs.BOM_UTF16_BE: _WIDE["UTF-16"],
}


def recognise(head: bytes) -> Content | None:
    """What a file that begins with `head` is; None if that is text (in an encoding that extends ASCII) or unknown."""
    binary = has_control_characters(head[:_NEAR_BYTES])
    for begin, content in _SIGNATURES.items():
        if head.startswith(begin) and (binary or len(begin) >= _SHORT_BYTES or not begin.isascii()):
            return content
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return Content("tar", _UNPACK)
    marked = next((content for mark, content in _MARKS.items() if head.startswith(mark)), None)
    return marked or _wide(head)


def looks_like_text(head: bytes) -> bool:
    return not has_control_characters(head) and recognise(head) is None


def has_control_characters(data: bytes) -> bool:
    """Whether there are any that text does not have."""
    return _NO_TEXT.search(data) is not None


def is_arrow_stream(head: bytes) -> bool:
    return head.startswith(_ARROW_STREAM)


def _wide(head: bytes) -> Content | None:
    """Text of two or four bytes a character has NULs at the same place of each, even without a byte order mark."""
    nuls = [head[place::4].count(0) for place in range(4)]
    total, quarter = sum(nuls), len(head) // 4
    if quarter == 0 or total * 16 < len(head) or total == len(head):
        return None
    if min(nuls[:2]) >= quarter or min(nuls[2:]) >= quarter:
        return _WIDE["UTF-32"]
    little = nuls[1] + nuls[3] > total / 2
    share, line_end = (nuls[1] + nuls[3], b"\n\0") if little else (nuls[0] + nuls[2], b"\0\n")
    ends = any(head[place : place + 2] == line_end for place in range(0, len(head), 2))
    return _WIDE["UTF-16"] if share * 10 >= total * 9 and (ends or b"\n" not in head) else None
