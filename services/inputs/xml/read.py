"""The records of an XML document, or of a part of one, as dicts: by expat, one record in memory at a time.

Each record is parsed with the start tags of the elements around it, which declare its namespaces. No document type is
ever read, so nothing is fetched, and no entities are known but those of XML itself (XML 1.0, 4.6).
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed, TaskError
from services.inputs.record_size import RECORD_BYTES_MAX, LongRecord, check_size, size_of
from services.inputs.xml.check import check_cuts
from services.inputs.xml.markup import DEPTH_MAX, Markup, MarkupError

_READ_BYTES = 1 << 20
_SPACE = " \t\r\n"
_SEPARATOR = "\n"  # between namespace, name and prefix, as expat tells them


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> "XmlRecords":
    """`record_tag` names the records, `lists` the elements that are lists in any case. Raises TaskError."""
    if "record_tag" not in options:
        message = f"which elements of {path.name!r} are records is not known: use an input of type xml, which tells it"
        raise TaskError("input_invalid", message, retryable=False)
    return XmlRecords(path, options["record_tag"], options.get("lists", ()))


class XmlRecords:
    """Each element of the record's name is a record: a dict of its attributes, children and text."""

    def __init__(self, path: Path, record_tag: str, lists: Sequence[str] = ()) -> None:
        self.path = path
        self._record_tag = record_tag
        self._lists = frozenset(lists)
        self._around = b""  # the record being read
        self._begin = 0

    def raws(self) -> Iterator[bytes]:
        if self.path.stat().st_size == 0:
            return
        markup = Markup(self._record_tag)
        try:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for at in range(0, len(data), _READ_BYTES):
                    for position, begins in markup.feed(data[at : at + _READ_BYTES]):
                        if begins:
                            self._begin, self._around = position, markup.around
                        else:
                            yield _record(data, self._begin, position)
            markup.finish()
        except MarkupError as error:
            raise TaskError("input_invalid", f"the XML can't be read: {error}", retryable=False) from None

    def parse(self, raw: bytes) -> dict[str, Any]:
        check_size(size_of(raw))
        return parse_record(raw, self._around, self._lists)

    def show(self, raw: bytes) -> str:
        return raw.decode(errors="backslashreplace")

    def offset(self, raw: bytes) -> int:
        return self._begin


def _record(data: mmap.mmap, begin: int, end: int) -> bytes:
    if end - begin <= RECORD_BYTES_MAX:
        return data[begin:end]
    return LongRecord.beginning(data[begin : begin + RECORD_BYTES_MAX], end - begin)


def parse_record(raw: bytes, around: bytes = b"", lists: frozenset[str] = frozenset()) -> dict[str, Any]:
    """An element as a dict; `around` are the start tags of those that it is in. Raises Malformed.

    Attributes are `@name`. A child with neither attributes nor children of its own is its text, a str; any other is a
    dict as the record is. Children of one name are a list, if there are several or `lists` names them. Text beside
    children or attributes is `#text`; beside children, white space alone does not count. Names are as written,
    prefixes included; declarations of namespaces are left out.
    """
    from xml.etree.ElementTree import TreeBuilder  # loaded only when needed
    from xml.parsers import expat

    tree = TreeBuilder()
    parser = expat.ParserCreate("UTF-8", _SEPARATOR)
    parser.namespace_prefixes = True
    parser.buffer_text = True
    try:
        parser.Parse(around, False)
        parser.StartElementHandler = tree.start
        parser.EndElementHandler = tree.end
        parser.CharacterDataHandler = tree.data
        parser.Parse(raw, False)
    except expat.ExpatError as error:
        at = max(0, parser.ErrorByteIndex - len(around))
        raise Malformed(f"not well-formed XML: {expat.ErrorString(error.code)} at byte {at} of the record") from None
    fields, text = _read(tree.close(), lists, 1)
    return fields | ({"#text": text} if text else {})


def _read(element: Any, lists: frozenset[str], depth: int) -> tuple[dict[str, Any], str]:
    """The attributes and children of an element; and its text, if it counts."""
    if depth > DEPTH_MAX:
        raise Malformed(f"more than {DEPTH_MAX} elements within each other")
    fields: dict[str, Any] = {f"@{_written(name)}": value for name, value in element.items()}
    text = element.text or ""
    for child in element:
        name, value = _written(child.tag), _value(child, lists, depth + 1)
        if name not in fields:
            fields[name] = [value] if name in lists else value
        elif type(fields[name]) is list:
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
        text += child.tail or ""
    return fields, text if not len(element) or text.strip(_SPACE) else ""


def _value(element: Any, lists: frozenset[str], depth: int) -> str | dict[str, Any]:
    fields, text = _read(element, lists, depth)
    if fields and text:
        fields["#text"] = text
    return fields or text


@lru_cache(4096)
def _written(name: str) -> str:
    """The name as the document has it: expat tells namespace, name and, if there is one, prefix."""
    if _SEPARATOR not in name:
        return name
    _, local, *prefix = name.split(_SEPARATOR)
    return f"{prefix[0]}:{local}" if prefix else local


STEPS = {"check_cuts": check_cuts}
