"""X12 envelopes: the delimiters of an interchange, and its transaction sets with whatever is wrong around them.

An interchange names its delimiters in its first segment, ISA. Each level counts what it holds and repeats its control
number at its end: ISA … IEA the interchange, GS … GE a group, ST … SE a transaction set.

Files have been through mainframes, terminals and mail. So a line end is never data (a transfer may break lines even
inside ISA), nor are blanks, NULs, Ctrl-Z and byte order marks between segments, and ISA may lack its padding.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from mmap import mmap
from typing import NamedTuple

from .acknowledgments import fault, shown
from .money import iso_date

_ISA_WIDTHS = (2, 10, 2, 10, 2, 15, 2, 15, 6, 4, 1, 5, 9, 1, 1, 1)
_ISA_BYTES_MAX = 512  # 106 by the standard; more if lines are broken in it, or an element is too long
_SEGMENT_MAX = 10_000  # characters: none of an 837 is half as long

_LINE_ENDS = b"\r\n"
_PADDING = b"\r\n\t \0\x1a\xef\xbb\xbf"
_PADDING_TEXT = "\r\n\t \0\x1a\ufeff"
_NEXT_ISA = re.compile(rb"I[\r\n]*S[\r\n]*A[\r\n]*([^\w\s])")
_LAST_ELEMENT = re.compile(rb"[\r\n]*([^\r\n])([\r\n]*)(.?)", re.DOTALL)


class Delimiters(NamedTuple):
    element: bytes
    repetition: bytes
    component: bytes
    terminator: bytes

    @property
    def line_ends(self) -> bytes:
        """Those that are not data."""
        return _LINE_ENDS.replace(self.terminator, b"")

    @property
    def padding(self) -> bytes:
        """What is not data between segments; neither are empty segments."""
        return _PADDING + self.terminator


class Header(NamedTuple):
    """An ISA segment: ISA01 to ISA16 and where its terminator ends."""

    elements: list[str]
    delimiters: Delimiters
    end: int

    @property
    def sender(self) -> str:
        return self.elements[5].strip()

    @property
    def control(self) -> str:
        return self.elements[12].strip()

    @property
    def is_beyond_doubt(self) -> bool:
        """Whether this is an interchange's beginning wherever it stands, and not the three letters in some text."""
        spare = [width - len(element) for element, width in zip(self.elements, _ISA_WIDTHS, strict=True)]
        numbers = all(re.fullmatch("[0-9]+", self.elements[place].strip()) for place in (8, 9, 11, 12))
        return not any(spare) or (min(spare) >= 0 and numbers)


@dataclass(slots=True)
class TransactionSet:
    """The segments from ST to SE, each a list of elements; `faults` are those of all three envelopes around them.

    `spoiled` says by the number of a segment, from 1, why no element of it can be trusted.
    """

    sender: str
    interchange: str
    delimiters: Delimiters
    group: str = ""
    segments: list[list[str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    spoiled: dict[int, str] = field(default_factory=dict)

    @property
    def control(self) -> str:
        return element(self.segments[0], 2) if self.segments else ""


def decode(data: bytes) -> str:
    """Text of which every byte can be written again, whatever its encoding."""
    return data.decode(errors="surrogateescape")


def element(segment: list[str], number: int) -> str:
    """An element by its number in the standard, where trailing empty ones may be left out."""
    return segment[number] if number < len(segment) else ""


def read_header(data: bytes | mmap, start: int = 0) -> Header | None:
    """The ISA at `start`, told by its separators; None if there is no ISA of 16 elements."""
    found = _NEXT_ISA.match(data, start)
    if not found:
        return None
    separator, begin = found[1], found.end()
    pieces = data[begin : begin + _ISA_BYTES_MAX].split(separator, len(_ISA_WIDTHS) - 1)
    last = _LAST_ELEMENT.match(pieces[-1])
    if len(pieces) < len(_ISA_WIDTHS) or not last:
        return None
    component, line_ends, following = last.groups()
    is_line_end = line_ends and (not following or following.isalnum() or following in _PADDING)
    terminator = line_ends[:1] if is_line_end else following
    end = begin + sum(len(piece) + 1 for piece in pieces[:-1]) + (last.start(2) + 1 if is_line_end else last.end(3))
    elements = [decode(piece.translate(None, _LINE_ENDS)) for piece in pieces[:-1]] + [decode(component)]
    if not terminator or terminator.isalnum() or terminator in b"".join(pieces[:-1]):
        return None
    repetition = elements[10].encode(errors="surrogateescape")
    return Header(elements, Delimiters(separator, repetition, component, terminator), end)


def skip_padding(data: bytes | mmap, position: int, padding: bytes = _PADDING) -> int:
    while data[position : position + 1] and data[position] in padding:
        position += 1
    return position


def find_isa(data: bytes | mmap, start: int, end: int | None = None) -> int:
    """Where the next interchange begins before `end`, that of the data by default; `end` if there is none."""
    end = len(data) if end is None else end
    while found := _NEXT_ISA.search(data, start, end):
        start = found.start()
        if (header := read_header(data, start)) and header.is_beyond_doubt:
            return start
        start += 1
    return end


def read_sets(data: bytes) -> Iterator[TransactionSet]:
    """All transaction sets of a file; what can't be read is one without segments."""
    start = skip_padding(data, 0)
    while start < len(data):
        end = find_isa(data, start + 1)
        if header := read_header(data, start):
            yield from _Interchange(header, decode(data[header.end : end])).sets()
        else:
            yield _unreadable(decode(data[start:end]))
        start = end


def _unreadable(text: str) -> TransactionSet:
    said = fault(f"no ISA segment of 16 elements, but {text[:20]!r}", "TA105", "022")
    return TransactionSet("", "", Delimiters(b"", b"", b"", b""), faults=[said])


class _Interchange:
    """Reads one interchange from behind its ISA to IEA."""

    def __init__(self, header: Header, text: str) -> None:
        self._header = header
        self._separator, self._terminator = map(decode, (header.delimiters.element, header.delimiters.terminator))
        for line_end in decode(header.delimiters.line_ends):
            text = text.replace(line_end, "")
        self._texts = [one.lstrip(_PADDING_TEXT) for one in text.split(self._terminator)]
        self._is_spoiled = max(map(len, self._texts)) > _SEGMENT_MAX or _has_control(text, header.delimiters)
        self._faults = _header_faults(header)
        self._sets: list[TransactionSet] = []
        self._in_set = False
        self._gs: list[str] | None = None
        self._group_start = 0
        self._groups = 0
        self._ended = False

    def sets(self) -> list[TransactionSet]:
        rest = ""
        for number, text in enumerate(self._texts, start=1):
            segment = text.split(self._separator)
            match segment[0]:
                case "GS":
                    self._open_group(segment)
                case "ST":
                    self._open_set(segment)
                case "SE":
                    self._close_set(segment)
                case "GE":
                    self._close_group(segment)
                case "IEA":
                    self._close(segment)
                    rest = self._terminator.join(self._texts[number:]).lstrip(_PADDING_TEXT + self._terminator)
                    break
                case "TA1" if not self._groups:
                    pass  # acknowledges an interchange of the other direction
                case "" if not text:
                    pass
                case _ if self._in_set:
                    self._add(segment, text)
                case tag:
                    self._faults.append(fault(f"segment {shown(tag)} outside a transaction set", "TA105", "022"))
        if not self._ended:
            self._leave_group()
            self._faults.append(fault("IEA is missing", "TA105", "023"))
        if self._faults and not self._sets:
            self._sets.append(self._new_set())
        for one in self._sets:
            one.faults += self._faults
        return [*self._sets, _unreadable(rest)] if rest else self._sets

    def _new_set(self) -> TransactionSet:
        group = element(self._gs, 6) if self._gs else ""
        return TransactionSet(self._header.sender, self._header.control, self._header.delimiters, group)

    def _add(self, segment: list[str], text: str) -> None:
        current = self._sets[-1]
        current.segments.append(segment)
        if self._is_spoiled and (why := self._spoiled(segment, text)):
            current.spoiled[len(current.segments)] = why
            segment[1:] = [one[:40] for one in segment[1:]]

    def _spoiled(self, segment: list[str], text: str) -> str:
        if len(text) > _SEGMENT_MAX:
            return fault(f"a segment of {len(text)} characters", "IK403", "5")
        for number, one in enumerate(segment):
            if _has_control(one, self._header.delimiters):
                return fault(f"{segment[0]}{number:02d} is {shown(one)}", "IK403", "6")
        return ""

    def _open_group(self, segment: list[str]) -> None:
        self._leave_group()
        self._gs = segment
        self._group_start = len(self._sets)
        self._groups += 1

    def _open_set(self, segment: list[str]) -> None:
        self._leave_set()
        self._sets.append(self._new_set())
        self._sets[-1].segments.append(segment)
        self._in_set = True
        if self._gs is None:
            self._sets[-1].faults.append(fault("transaction set outside a group", "TA105", "024"))
        elif not iso_date(day := element(self._gs, 4)):
            self._sets[-1].faults.append(fault(f"GS04 is {shown(day)}", "TA105", "024"))

    def _close_set(self, segment: list[str]) -> None:
        if not self._in_set:
            self._faults.append(fault("SE without ST", "TA105", "022"))
            return
        current = self._sets[-1]
        current.segments.append(segment)
        count, control = element(segment, 1), element(segment, 2)
        if not is_count(count, len(current.segments)):
            current.faults.append(_miscounted("SE01", count, len(current.segments), "segments", "IK502", "4"))
        if control != current.control:
            current.faults.append(_unlike("SE02", control, "ST02", current.control, "IK502", "3"))
        self._in_set = False

    def _close_group(self, segment: list[str]) -> None:
        if self._gs is None:
            self._faults.append(fault("GE without GS", "TA105", "022"))
            return
        self._leave_set()
        counted, faults = len(self._sets) - self._group_start, []
        count, control = element(segment, 1), element(segment, 2)
        if not is_count(count, counted):
            faults.append(_miscounted("GE01", count, counted, "transaction sets", "AK905", "5"))
        if not is_same_number(control, element(self._gs, 6)):
            faults.append(_unlike("GE02", control, "GS06", element(self._gs, 6), "AK905", "4"))
        self._blame_group(faults)
        self._gs = None

    def _close(self, segment: list[str]) -> None:
        self._leave_group()
        count, control = element(segment, 1), element(segment, 2)
        if not is_count(count, self._groups):
            self._faults.append(_miscounted("IEA01", count, self._groups, "groups", "TA105", "021"))
        if not is_same_number(control, self._header.control):
            self._faults.append(_unlike("IEA02", control, "ISA13", self._header.control, "TA105", "001"))
        self._ended = True

    def _leave_set(self) -> None:
        if self._in_set:
            self._sets[-1].faults.append(fault("SE is missing", "IK502", "2"))
            self._in_set = False

    def _leave_group(self) -> None:
        self._leave_set()
        if self._gs is not None:
            self._blame_group([fault("GE is missing", "AK905", "3")])
            self._gs = None

    def _blame_group(self, faults: list[str]) -> None:
        for one in self._sets[self._group_start :]:
            one.faults += faults


def _header_faults(header: Header) -> list[str]:
    """What a TA1 says of an ISA; elements that are too short only lack their padding."""
    isa = header.elements
    rules = [
        (6, len(isa[5]) <= 15 and isa[5].strip(), "006"),
        (8, len(isa[7]) <= 15 and isa[7].strip(), "008"),
        (9, re.fullmatch("[0-9]{6}", isa[8]) and iso_date(f"20{isa[8]}"), "014"),
        (10, re.fullmatch("([01][0-9]|2[0-3])[0-5][0-9]", isa[9]), "015"),
        (12, isa[11] == "00501", "017"),
        (13, re.fullmatch("[0-9]{1,9}", header.control), "018"),
        (15, isa[14] in ("P", "T"), "020"),
        (16, not isa[15].isalnum() and header.delimiters.component != header.delimiters.element, "027"),
    ]
    return [fault(f"ISA{n:02d} is {shown(isa[n - 1])}", "TA105", code) for n, is_right, code in rules if not is_right]


def _has_control(text: str, delimiters: Delimiters) -> bool:
    """Whether a character is there that is neither data nor a delimiter."""
    return _control_characters(delimiters).search(text) is not None


@lru_cache(maxsize=16)
def _control_characters(delimiters: Delimiters) -> re.Pattern[str]:
    meant = b"".join(delimiters)
    return re.compile("[" + "".join(f"\\x{code:02x}" for code in (*range(32), 127) if code not in meant) + "]")


def is_count(said: str, counted: int) -> bool:
    return said.isascii() and said.isdigit() and is_same_number(said, str(counted))


def is_same_number(one: str, other: str) -> bool:
    """Whether two control numbers are the same; the zeros in front belong to the padding."""
    return one.lstrip("0") == other.lstrip("0") and bool(one) == bool(other)


def _miscounted(name: str, said: str, counted: int, things: str, element: str, code: str) -> str:
    return fault(f"{name} says {shown(said) if said else 'nothing'}, but there are {counted} {things}", element, code)


def _unlike(name: str, value: str, other_name: str, other: str, element: str, code: str) -> str:
    return fault(f"{name} is {shown(value)}, but {other_name} is {shown(other)}", element, code)


@lru_cache(maxsize=65_536)
def npi_is_valid(npi: str) -> bool:
    """Ten digits, of which the last is the Luhn check digit of 80840 and the other nine."""
    if len(npi) != 10 or not (npi.isascii() and npi.isdigit()):
        return False
    total = 24  # what the prefix 80840 adds
    for place, digit in enumerate(map(int, npi)):
        total += digit if place % 2 else (digit * 2 - 9 if digit > 4 else digit * 2)
    return total % 10 == 0
