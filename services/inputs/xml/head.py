"""The head of an XML document, before its first record: its encoding, and the elements that the records are in."""

import codecs
import re
from dataclasses import dataclass
from xml.parsers import expat

from services.inputs.chunk import SplitError
from services.inputs.magic import HEAD_BYTES, recognise
from services.inputs.xml.markup import Markup, MarkupError

HEAD_BYTES_MAX = 262_144
HEADER_BYTES_MAX = 65_536

_NAMES_SHOWN = 5
_ENCODINGS = ("utf-8", "utf8", "us-ascii", "ascii")
# How documents of other encodings begin: XML 1.0, appendix F.1.
_FOREIGN = {b"<\0": "UTF-16", b"\0": "UTF-16 or UTF-32", b"\x4c\x6f\xa7\x94": "EBCDIC"}
_DECLARED = re.compile(rb"""<\?xml[ \t\r\n][^>]*?[ \t\r\n]encoding[ \t\r\n]*=[ \t\r\n]*["']([^"'>]*)["']""")
_SECTION = re.compile(rb"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)", re.DOTALL)
_ELEMENT = re.compile(rb"<([^ \t\r\n/>!?]++)")


@dataclass(frozen=True, slots=True)
class Around:
    """The start tags of the elements that records are in, and their end tags."""

    header: str
    footer: str


@dataclass(frozen=True, slots=True)
class Head:
    """The first record begins at the byte `bytes`; without `around`, there is none."""

    bytes: int
    around: Around | None = None


def find_head(data: bytes, uri: str, record_tag: str, whole: bool) -> Head | None:
    """The head of a document that begins with `data` (or is that, if `whole`); None if the first record is not in it.

    Raises SplitError if the document can't be read, or if it has elements, but no such records.
    """
    start = content_start(data, uri)
    markup = Markup(record_tag, start)
    try:
        for edge in markup.feed(data[start:]):
            return Head(edge.position, describe_around(markup, uri))
        if not whole:
            return None
        if data:
            markup.finish()
    except MarkupError as error:
        raise SplitError(f"{uri} can't be read as XML: {error}") from None
    refuse_without_records(data, uri, record_tag)
    return Head(len(data))


def refuse_without_records(data: bytes, uri: str, record_tag: str) -> None:
    """Raises SplitError for a document without records that begins with `data`, unless it is an empty element."""
    names = name_elements(data)
    if len(names) > 1:
        found = ", ".join(names)
        raise SplitError(f"{uri} has no element <{record_tag}>, but {found}: set record_tag to one of its elements")


def content_start(data: bytes, uri: str) -> int:
    """The number of bytes of a byte order mark. Raises SplitError for an encoding that is not UTF-8 or US-ASCII."""
    for begin, name in _FOREIGN.items():
        if data.startswith(begin):
            raise SplitError(f"{uri} begins like {name}: convert it to UTF-8")
    if (found := recognise(data[:HEAD_BYTES])) is not None:
        raise SplitError(f"{uri} {found.instead_of('XML')}")
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    declared = _DECLARED.match(data, start)
    if declared is not None and (encoding := declared[1].decode(errors="replace")).lower() not in _ENCODINGS:
        raise SplitError(f"{uri} says that it is {encoding}: convert it to UTF-8, and its XML declaration, too")
    return start


def describe_around(markup: Markup, uri: str) -> Around:
    """The elements that are open, as text that a parser accepts. Raises SplitError."""
    start_tags, end_tags = markup.around, markup.closing
    if len(start_tags) > HEADER_BYTES_MAX:
        raise SplitError(f"{uri}: the tags of the elements around a record have more than {HEADER_BYTES_MAX} bytes")
    if start_tags:
        try:
            expat.ParserCreate(namespace_separator="\n").Parse(start_tags + end_tags, True)
        except expat.ExpatError as error:
            text = start_tags[:1000].decode(errors="backslashreplace")
            raise SplitError(f"{uri}: the elements around the records are not well-formed: {error}: {text}") from None
    return Around(start_tags.decode(), end_tags.decode())


def name_elements(data: bytes) -> list[str]:
    """The names of the first few elements that begin in it, each once."""
    found = (match[1].decode(errors="replace") for match in _ELEMENT.finditer(_SECTION.sub(b"", data)))
    return [f"<{name}>" for name in dict.fromkeys(found)][:_NAMES_SHOWN]
