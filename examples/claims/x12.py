"""X12 envelopes: the delimiters of an interchange, and its transaction sets with whatever is wrong around them.

An interchange names its delimiters in its first segment, ISA, which alone has a fixed length. Each level counts what it
holds and repeats its control number at its end: ISA … IEA the interchange, GS … GE a group, ST … SE a transaction set.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from mmap import mmap
from typing import NamedTuple

ISA_BYTES = 106
_ELEMENT_OFFSETS = (3, 6, 17, 20, 31, 34, 50, 53, 69, 76, 81, 83, 89, 99, 101, 103)
_LINE_ENDS = b"\r\n"


class Delimiters(NamedTuple):
    element: bytes
    repetition: bytes
    component: bytes
    terminator: bytes


@dataclass(slots=True)
class TransactionSet:
    """The segments from ST to SE, each a list of elements; `faults` are those of all three envelopes around them."""

    sender: str
    interchange: str
    delimiters: Delimiters
    group: str = ""
    segments: list[list[str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def control(self) -> str:
        return element(self.segments[0], 2) if self.segments else ""


def decode(data: bytes) -> str:
    """Text of which every byte can be written again, whatever its encoding."""
    return data.decode(errors="surrogateescape")


def element(segment: list[str], number: int) -> str:
    """An element by its number in the standard, where trailing empty ones may be left out."""
    return segment[number] if number < len(segment) else ""


def read_delimiters(data: bytes | mmap, start: int = 0) -> Delimiters | None:
    """The delimiters of the ISA at `start`; None if there is no ISA."""
    isa = data[start : start + ISA_BYTES]
    if len(isa) < ISA_BYTES or isa[:3] != b"ISA" or {isa[offset] for offset in _ELEMENT_OFFSETS} != {isa[3]}:
        return None
    return Delimiters(isa[3:4], isa[82:83], isa[104:105], isa[105:106])


def skip_line_ends(data: bytes | mmap, position: int) -> int:
    while data[position : position + 1] and data[position] in _LINE_ENDS:
        position += 1
    return position


def find_isa(data: bytes | mmap, start: int) -> int:
    """Where the next interchange begins; the end of the data if there is none."""
    while (start := data.find(b"ISA", start)) >= 0:
        if read_delimiters(data, start):
            return start
        start += 1
    return len(data)


def read_sets(data: bytes) -> Iterator[TransactionSet]:
    """All transaction sets of a file; what can't be read is one without segments."""
    start = skip_line_ends(data, 0)
    while start < len(data):
        end = find_isa(data, start + 1)
        delimiters = read_delimiters(data, start)
        if delimiters:
            yield from _Interchange(data[start:end], delimiters).sets()
        else:
            yield _unreadable(decode(data[start:end]))
        start = end


def _unreadable(text: str) -> TransactionSet:
    return TransactionSet("", "", Delimiters(b"", b"", b"", b""), faults=[f"no ISA segment, but {text[:20]!r}"])


class _Interchange:
    """Reads one interchange from ISA to IEA."""

    def __init__(self, data: bytes, delimiters: Delimiters) -> None:
        separator, terminator = decode(delimiters.element), decode(delimiters.terminator)
        text = decode(data)
        for line_end in {"\r", "\n"} - {terminator}:
            text = text.replace(line_end, "")
        self._segments = [segment.split(separator) for segment in text.split(terminator)]
        self._isa = self._segments[0]
        self._delimiters = delimiters
        self._faults: list[str] = []
        self._sets: list[TransactionSet] = []
        self._in_set = False
        self._gs: list[str] | None = None
        self._group_start = 0
        self._groups = 0
        self._ended = False

    def sets(self) -> list[TransactionSet]:
        rest = ""
        for number, segment in enumerate(self._segments[1:], start=1):
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
                    rest = self._text_from(number + 1)
                    break
                case "TA1" if not self._groups:
                    pass  # acknowledges an interchange of the other direction
                case "" if segment is self._segments[-1]:
                    pass
                case _ if self._in_set:
                    self._sets[-1].segments.append(segment)
                case tag:
                    self._faults.append(f"segment {tag[:20]!r} outside a transaction set")
        if not self._ended:
            self._leave_group("GE is missing")
            self._faults.append("IEA is missing")
        if self._faults and not self._sets:
            self._sets.append(self._new_set())
        for one in self._sets:
            one.faults += self._faults
        return [*self._sets, _unreadable(rest)] if rest else self._sets

    def _text_from(self, number: int) -> str:
        separator, terminator = decode(self._delimiters.element), decode(self._delimiters.terminator)
        return terminator.join(separator.join(segment) for segment in self._segments[number:])

    def _new_set(self) -> TransactionSet:
        group = element(self._gs, 6) if self._gs else ""
        return TransactionSet(self._isa[6].strip(), self._isa[13], self._delimiters, group)

    def _open_group(self, segment: list[str]) -> None:
        self._leave_group("GE is missing")
        self._gs = segment
        self._group_start = len(self._sets)
        self._groups += 1

    def _open_set(self, segment: list[str]) -> None:
        self._leave_set("SE is missing")
        self._sets.append(self._new_set())
        self._sets[-1].segments.append(segment)
        self._in_set = True
        if self._gs is None:
            self._sets[-1].faults.append("transaction set outside a group")

    def _close_set(self, segment: list[str]) -> None:
        if not self._in_set:
            self._faults.append("SE without ST")
            return
        current = self._sets[-1]
        current.segments.append(segment)
        current.faults += _compare("SE01", element(segment, 1), len(current.segments), "segments")
        current.faults += _compare_control("SE02", element(segment, 2), "ST02", current.control)
        self._in_set = False

    def _close_group(self, segment: list[str]) -> None:
        if self._gs is None:
            self._faults.append("GE without GS")
            return
        self._leave_set("SE is missing")
        faults = _compare("GE01", element(segment, 1), len(self._sets) - self._group_start, "transaction sets")
        faults += _compare_control("GE02", element(segment, 2), "GS06", element(self._gs, 6))
        self._blame_group(faults)
        self._gs = None

    def _close(self, segment: list[str]) -> None:
        self._leave_group("GE is missing")
        self._faults += _compare("IEA01", element(segment, 1), self._groups, "groups")
        self._faults += _compare_control("IEA02", element(segment, 2), "ISA13", self._isa[13])
        self._ended = True

    def _leave_set(self, fault: str) -> None:
        if self._in_set:
            self._sets[-1].faults.append(fault)
            self._in_set = False

    def _leave_group(self, fault: str) -> None:
        self._leave_set("SE is missing")
        if self._gs is not None:
            self._blame_group([fault])
            self._gs = None

    def _blame_group(self, faults: list[str]) -> None:
        for one in self._sets[self._group_start :]:
            one.faults += faults


def _compare(name: str, said: str, counted: int, things: str) -> list[str]:
    right = said.isascii() and said.isdigit() and int(said) == counted
    return [] if right else [f"{name} says {said or 'nothing'}, but there are {counted} {things}"]


def _compare_control(name: str, value: str, other_name: str, other: str) -> list[str]:
    return [] if value == other else [f"{name} is {value!r}, but {other_name} is {other!r}"]


@lru_cache(maxsize=65_536)
def npi_is_valid(npi: str) -> bool:
    """Ten digits, of which the last is the Luhn check digit of 80840 and the other nine."""
    if len(npi) != 10 or not (npi.isascii() and npi.isdigit()):
        return False
    total = 24  # what the prefix 80840 adds
    for place, digit in enumerate(map(int, npi)):
        total += digit if place % 2 else (digit * 2 - 9 if digit > 4 else digit * 2)
    return total % 10 == 0
