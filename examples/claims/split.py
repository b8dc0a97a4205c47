"""Cuts files of X12 at the boundaries of transaction sets into parts that are valid interchanges of their own.

A part carries the ISA and GS of the interchange and group that it is cut from, with their control numbers; its GE and
IEA count what it holds. All else is copied byte by byte. An interchange whose own envelope is wrong (counts, control
numbers, missing segments) becomes one part as it is, so that whoever validates it sees it as it came.
"""

import re
from functools import lru_cache
from mmap import ACCESS_READ, MADV_DONTNEED, PAGESIZE, mmap
from pathlib import Path
from typing import BinaryIO

from .x12 import Delimiters, Header, decode, find_isa, is_count, is_same_number, read_header, skip_padding

_COPY_BYTES = 1 << 20


class _Irregular(Exception):
    """The interchange is not what its envelope says."""


def split(input: Path, output: Path, part_bytes: int = 8_388_608) -> None:
    """Write the parts of a file of interchanges, about `part_bytes` large unless a transaction set is larger.

    The file is mapped, and behind each part its pages are given back: memory stays the same for files of any size.
    """
    if input.stat().st_size == 0:
        return
    with input.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        parts = _Parts(output, part_bytes)
        start = skip_padding(data, 0)
        while start < len(data):
            kept = parts.count
            try:
                start = _Interchange(data, start, parts).cut()
            except _Irregular:
                parts.drop_after(kept)
                end = find_isa(data, start + 1)
                parts.copy(data, start, end)
                start = end
            _forget(data, start)


def _forget(data: mmap, end: int) -> None:
    """Give back the pages before `end`: what was read would stay in memory."""
    if pages := end // PAGESIZE:
        data.madvise(MADV_DONTNEED, 0, pages * PAGESIZE)


class _Parts:
    """The files of the output directory, in order."""

    def __init__(self, directory: Path, part_bytes: int) -> None:
        self.part_bytes = part_bytes
        self.count = 0
        self._directory = directory

    def create(self) -> BinaryIO:
        self.count += 1
        return self._path(self.count).open("xb")

    def drop_after(self, count: int) -> None:
        for number in range(count + 1, self.count + 1):
            self._path(number).unlink()
        self.count = count

    def copy(self, data: mmap, start: int, end: int) -> None:
        with self.create() as file:
            for offset in range(start, end, _COPY_BYTES):
                file.write(data[offset : min(offset + _COPY_BYTES, end)])

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.x12"


@lru_cache(maxsize=64)
def _tag(name: bytes, delimiters: Delimiters, before: bytes = b"") -> re.Pattern[bytes]:
    """The beginning of a segment, between whose letters lines may be broken."""
    line_ends = b"[" + delimiters.line_ends + b"]*"
    letters = [re.escape(name[place : place + 1]) for place in range(len(name))]
    return re.compile(before + line_ends.join([*letters, re.escape(delimiters.element)]))


class _Interchange:
    """Walks through one interchange, writing parts as it goes."""

    def __init__(self, data: mmap, start: int, parts: _Parts) -> None:
        header = read_header(data, start)
        if header is None:
            raise _Irregular
        self._data = data
        self._header = header
        self._delimiters = header.delimiters
        self._parts = parts
        padding = b"[" + re.escape(header.delimiters.padding) + b"]*"
        self._set_end = _tag(b"SE", header.delimiters, re.escape(header.delimiters.terminator) + padding)
        self._position = skip_padding(data, header.end, header.delimiters.padding)
        self._isa = data[start : self._position]
        self._line_end = bytes(byte for byte in data[header.end : self._position] if byte in b"\r\n")
        while self._at(b"TA1"):
            self._take()
        self._head = data[start : self._position]  # of the first part: acknowledgments are sent once
        self._part: _Part | None = None

    def cut(self) -> int:
        """Cut it; returns where it ends. Raises _Irregular if its envelope is wrong."""
        groups = 0
        try:
            while self._at(b"GS"):
                self._cut_group()
                groups += 1
            self._expect("IEA", groups, self._header.control)
        except BaseException:
            if self._part:
                self._part.file.close()
            raise
        if self._part:
            self._part.end()
        return self._position

    def _cut_group(self) -> None:
        gs = self._take()
        control = (self._elements(gs) + [""] * 7)[6]
        sets = 0
        while self._at(b"ST"):
            start = self._position
            self._position = self._find_set_end()
            self._write(gs, control, self._data[start : self._position])
            sets += 1
        self._expect("GE", sets, control)
        if self._part:
            self._part.end_group()

    def _find_set_end(self) -> int:
        """What follows the SE of the set that begins here: an `SE*` that is a segment, not the end of some name.

        Raises _Irregular if the set has no end before the next interchange.
        """
        found = self._set_end.search(self._data, self._position)
        if not found or find_isa(self._data, self._position, found.start()) < found.start():
            raise _Irregular
        return self._after_segment(found.end())

    def _write(self, gs: bytes, control: str, transaction_set: bytes) -> None:
        if self._part and self._part.size + len(transaction_set) > self._parts.part_bytes:
            self._part.end()
            self._part = None
            _forget(self._data, self._position)
        if self._part is None:
            self._part = _Part(self._parts.create(), self._head, self._header, self._line_end)
            self._head = self._isa
        self._part.add(gs, control, transaction_set)

    def _at(self, name: bytes) -> bool:
        return _tag(name, self._delimiters).match(self._data, self._position) is not None

    def _take(self) -> bytes:
        start = self._position
        self._position = self._after_segment(start)
        return self._data[start : self._position]

    def _after_segment(self, start: int) -> int:
        end = self._data.find(self._delimiters.terminator, start)
        if end < 0:
            raise _Irregular
        return skip_padding(self._data, end + 1, self._delimiters.padding)

    def _expect(self, tag: str, count: int, control: str) -> None:
        match self._elements(self._take()):
            case [name, said, repeated] if name == tag and is_count(said, count) and is_same_number(repeated, control):
                return
        raise _Irregular

    def _elements(self, segment: bytes) -> list[str]:
        text = segment.partition(self._delimiters.terminator)[0].translate(None, self._delimiters.line_ends)
        return decode(text).split(decode(self._delimiters.element))


class _Part:
    """One file: an interchange that is written in order."""

    def __init__(self, file: BinaryIO, head: bytes, header: Header, line_end: bytes) -> None:
        self.file = file
        self.size = len(head)
        self._control = header.control
        self._delimiters = header.delimiters
        self._line_end = line_end
        self._groups = 0
        self._group_control: str | None = None
        self._sets = 0
        file.write(head)

    def add(self, gs: bytes, control: str, transaction_set: bytes) -> None:
        if self._group_control is None:
            self.file.write(gs)
            self.size += len(gs)
            self._group_control = control
            self._groups += 1
        self.file.write(transaction_set)
        self.size += len(transaction_set)
        self._sets += 1

    def end_group(self) -> None:
        if self._group_control is not None:
            self._write("GE", self._sets, self._group_control)
            self._group_control = None
            self._sets = 0

    def end(self) -> None:
        self.end_group()
        self._write("IEA", self._groups, self._control)
        self.file.close()

    def _write(self, tag: str, count: int, control: str) -> None:
        separator = decode(self._delimiters.element)
        segment = separator.join([tag, str(count), control]).encode(errors="surrogateescape")
        self.file.write(segment + self._delimiters.terminator + self._line_end)
