"""Where the records of an XML document are: fed with its bytes in order, in constant memory.

A record is an element with the record's tag as it is written, prefix included, that lies in no other such element.

Neither text nor the value of an attribute may hold '<' (XML 1.0, 2.4 and 3.1). So outside comments (2.5), processing
instructions (2.6) and CDATA sections (2.7), every '<' begins a tag, and within a record only those of its own name are
of interest. A fault inside a record is left to its reader; elsewhere it is an error, as far as the tags
show it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

TAG_BYTES_MAX = 1_048_576
DEPTH_MAX = 200  # of the elements around a record

_SECTIONS = {b"<!--": ("comment", b"-->"), b"<![CDATA[": ("CDATA section", b"]]>"), b"<?": ("instruction", b"?>")}
_OPENING_BYTES_MAX = max(map(len, _SECTIONS))
_SPACE = rb" \t\r\n"
# Patterns, which are compiled when they are used: a child that reads no XML starts without them.
_REST = rb"""((?:[^<>"']|"[^<"]*+"|'[^<']*+')*+)(>)?"""  # of a tag, after its name
_ANY_TAG = rb"""<(?:(/?+)([^!?%b/<>"'][^%b/<>"']*+)%b)?""" % (_SPACE, _SPACE, _REST)
_QUOTED = rb"\"[^\"]*+\"|'[^']*+'"


class MarkupError(ValueError):
    """The document is not well-formed, or not supported; the message names the byte where that shows."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"byte {position}: {what}")


class Edge(NamedTuple):
    """A record begins at the byte `position`, or ends before it."""

    position: int
    begins: bool


class Open(NamedTuple):
    """A construct that the bytes so far have begun and not ended."""

    what: str
    position: int


class _Element(NamedTuple):
    name: bytes
    start_tag: bytes


class Markup:
    """A walk over a document, or over a part of one that is put between the tags of the elements around it."""

    def __init__(self, record_tag: str, start: int = 0) -> None:
        """The first byte fed has the position `start`."""
        self._tag = record_tag.encode()
        self._own = re.compile(rb"<(?:[!?]|(/?+)(%b)(?=[%b/>])%b)" % (re.escape(self._tag), _SPACE, _REST))
        self._any_tag = re.compile(_ANY_TAG)
        self._mark_bytes_max = max(_OPENING_BYTES_MAX, len(self._tag) + 3)
        self._buffer = b""
        self._at = 0  # in the buffer: everything before it is read
        self._offset = start  # the buffer's position
        self._section: Open | None = None
        self._section_end = b""
        self._record = 0  # where the record begins that is open
        self._depth = 0  # nesting depth of elements with its name; 0: no record is open
        self._begun = False
        self._around: list[_Element] = []
        self._joined: bytes | None = b""

    @property
    def position(self) -> int:
        """The walk has passed all bytes before this position."""
        return self._offset + self._at

    @property
    def around(self) -> bytes:
        """The start tags of the open elements, without a record and its content."""
        if self._joined is None:
            self._joined = b"".join(element.start_tag for element in self._around)
        return self._joined

    @property
    def closing(self) -> bytes:
        """The end tags of these elements."""
        return b"".join(b"</%b>" % element.name for element in reversed(self._around))

    @property
    def ended(self) -> bool:
        """Whether the document's own element has ended."""
        return self._begun and not self._around and not self._depth

    @property
    def open(self) -> Open | None:
        """The record, section or tag that the bytes so far leave incomplete."""
        if self._depth:
            return Open(f"the record <{self._tag.decode()}>", self._record)
        if self._section is None and self._at < len(self._buffer):
            return Open("the tag", self.position)
        return self._section

    def feed(self, data: bytes) -> Iterator[Edge]:
        """The edges of records, one by one. Exhaust this iterator before you feed more bytes. Raises MarkupError."""
        self._offset += self._at
        buffer = self._buffer = self._buffer[self._at :] + data
        self._at = 0
        while self._section is None or self._leave_section():
            tag = (self._own if self._depth else self._any_tag).search(buffer, self._at)
            if not self._around and not self._depth:
                self._check_space(tag.start() if tag else len(buffer))
            if tag is None:
                self._at = self._cut_off() if self._depth else len(buffer)
                return
            if tag[4]:
                self._at = tag.end()
                yield from self._pass_own(tag) if self._depth or tag[2] == self._tag else self._pass_other(tag)
            elif not self._pass_other_markup(tag.start()):
                self._at = tag.start()
                return

    def finish(self) -> None:
        """Raises MarkupError if the document is not complete."""
        if self.open is not None:
            raise MarkupError(self.open.position, f"{self.open.what} is not closed before the document's end")
        if not self.ended:
            name = _text(self._around[-1].name) if self._around else None
            what = "there is no element" if name is None else f"<{name}> is not closed before the document's end"
            raise MarkupError(self.position, what)

    def _pass_own(self, tag: re.Match[bytes]) -> tuple[Edge, ...]:
        """A tag of the record's name."""
        begin, end = Edge(self._offset + tag.start(), begins=True), Edge(self._offset + tag.end(), begins=False)
        empty = tag[3].endswith(b"/")
        if self._depth:
            self._depth += -1 if tag[1] else 0 if empty else 1
            return () if self._depth else (end,)
        if tag[1]:
            raise MarkupError(begin.position, f"</{_text(tag[2])}> closes nothing")
        self._begin_element(begin.position, tag[2])
        if empty:
            return (begin, end)
        self._record, self._depth = begin.position, 1
        return (begin,)

    def _pass_other(self, tag: re.Match[bytes]) -> tuple[()]:
        """A tag outside records, of an element that is not a record."""
        position, name = self._offset + tag.start(), tag[2]
        if tag[1]:
            opened = self._around.pop().name if self._around else None
            if opened != name:
                instead = f"where </{_text(opened)}> must come first" if opened else "closes nothing"
                raise MarkupError(position, f"</{_text(name)}> {instead}")
            self._joined = None
            return ()
        self._begin_element(position, name)
        if not tag[3].endswith(b"/"):
            if len(self._around) == DEPTH_MAX:
                raise MarkupError(position, f"more than {DEPTH_MAX} elements within each other")
            self._around.append(_Element(name, tag[0]))
            self._joined = None
        return ()

    def _begin_element(self, position: int, name: bytes) -> None:
        if self._begun and not self._around:
            raise MarkupError(position, f"a second element, <{_text(name)}>, after the document's own")
        self._begun = True

    def _check_space(self, end: int) -> None:
        """Outside of the document's own element there is no text."""
        if text := self._buffer[self._at : end].lstrip():
            raise MarkupError(self._offset + end - len(text), "text outside of the document's own element")

    def _cut_off(self) -> int:
        """Where a mark may begin that is cut off by the buffer's end."""
        buffer = self._buffer
        found = buffer.rfind(b"<", max(self._at, len(buffer) - self._mark_bytes_max))
        return len(buffer) if found < 0 else found

    def _leave_section(self) -> bool:
        """Go on behind its end, if that is in the buffer."""
        found = self._buffer.find(self._section_end, self._at)
        if found < 0:
            self._at = max(self._at, len(self._buffer) - len(self._section_end) + 1)
            return False
        self._at, self._section = found + len(self._section_end), None
        return True

    def _pass_other_markup(self, found: int) -> bool:
        """Continue after a '<' that does not begin a complete tag; False if more bytes are needed to decide."""
        begin = self._buffer[found : found + _OPENING_BYTES_MAX]
        for opening, (what, end) in _SECTIONS.items():
            if begin.startswith(opening):
                self._at = found + len(opening)
                self._section, self._section_end = Open(f"the {what}", self._offset + found), end
                return True
            if opening.startswith(begin):
                return False
        if b"<!DOCTYPE".startswith(begin) and not self._begun:
            return self._pass_doctype(found)
        if self._goes_on(found):
            return False
        if not self._depth:
            raise MarkupError(self._offset + found, "a '<' that begins no tag; in text it is written &lt;")
        self._at = found + 1  # the record's reader will refuse it
        return True

    def _goes_on(self, found: int) -> bool:
        """Whether a tag may begin there and end after the buffer."""
        rest = self._rest(found)
        if rest[2] or self._buffer.find(b"<", rest.end()) >= 0:
            return False
        if len(self._buffer) - found > TAG_BYTES_MAX:
            raise MarkupError(self._offset + found, f"a tag of more than {TAG_BYTES_MAX} bytes")
        return True

    def _rest(self, found: int) -> re.Match[bytes]:
        rest = re.compile(_REST).match(self._buffer, found + 1)
        assert rest is not None  # it may be empty
        return rest

    def _pass_doctype(self, found: int) -> bool:
        """A document type declaration may name a DTD, which is not read, but hold none."""
        declared = self._rest(found)
        goes_on = self._goes_on(found)
        if b"[" in re.sub(_QUOTED, b"", declared[0]) or not (declared[2] or goes_on):
            what = "a DTD within the document, which may define entities, is not read: leave out all from '[' to ']'"
            raise MarkupError(self._offset + found, what)
        self._at = found if goes_on else declared.end()
        return not goes_on


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
