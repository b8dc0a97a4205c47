"""Cuts an XML document by a walk over all of it, which knows where records are and what is around them."""

from typing import Any

from services.inputs.chunk import SplitError
from services.inputs.cutter import Cut
from services.inputs.spec import XmlInput
from services.inputs.xml.head import content_start, describe_around, refuse_without_records
from services.inputs.xml.markup import Markup, MarkupError
from services.inputs.xml.split import part_options

_DECLARATION_BYTES_MAX = 1024


class Cutter:
    """Cuts at the first record that begins a part's bytes or more after the cut before."""

    format = "xml"

    def __init__(self, source: XmlInput, part_bytes: int) -> None:
        self.options: dict[str, Any] = part_options(source) | {"scanned": True}
        self._uri, self._record_tag = source.uri, source.record_tag
        self._part_bytes = part_bytes
        self._begin = b""  # of the document
        self._markup: Markup | None = None
        self._target: int | None = None  # None before the first record
        self._held = b""  # bytes that the walk has not passed yet

    def feed(self, data: bytes) -> tuple[bytes, list[Cut]]:
        if self._markup is not None:
            return self._walk(self._markup, data)
        self._begin += data
        return (b"", []) if len(self._begin) < _DECLARATION_BYTES_MAX else self._walk_begin()

    def finish(self) -> tuple[bytes, list[Cut]]:
        text, cuts = (b"", []) if self._markup else self._walk_begin()
        if self._begin and self._markup is not None:
            try:
                self._markup.finish()
            except MarkupError as error:
                raise self._refuse(error) from None
        if self._target is None:
            refuse_without_records(self._begin, self._uri, self._record_tag)
        return text + self._held, cuts

    def _walk_begin(self) -> tuple[bytes, list[Cut]]:
        start = content_start(self._begin, self._uri)
        self._markup = Markup(self._record_tag, start)
        return self._walk(self._markup, self._begin[start:])

    def _walk(self, markup: Markup, data: bytes) -> tuple[bytes, list[Cut]]:
        text, position, first = self._held + data, markup.position, self._target is None
        try:
            cuts = [
                self._cut(markup, edge.position)
                for edge in markup.feed(data)
                if edge.begins and (self._target is None or edge.position >= self._target)
            ]
        except MarkupError as error:
            raise self._refuse(error) from None
        begin, end = cuts[0].position - position if first and cuts else 0, markup.position - position
        self._held = text[end:]
        return (b"" if self._target is None else text[begin:end]), cuts

    def _cut(self, markup: Markup, position: int) -> Cut:
        self._target = position + self._part_bytes
        around = describe_around(markup, self._uri)
        return Cut(position, around.header, around.footer)

    def _refuse(self, error: MarkupError) -> SplitError:
        return SplitError(f"{self._uri} can't be read as XML: {error}")
