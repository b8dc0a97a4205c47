"""Where CSV is cut is where a reader of all of it ends a record, byte order marks inside it or not."""

import codecs
import csv
from collections.abc import Iterator

from hypothesis import assume, given
from hypothesis import strategies as st

from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.record_ends import CsvEnds

MARK = codecs.BOM_UTF8
PIECES = st.sampled_from([b"a", b",", b"\n", b'"', b'""', b'"a\nb"', MARK, b"\n" + MARK, b"\n" + MARK + b'"'])


def record_ends(data: bytes) -> set[int]:
    """By the module csv, which is given no mark that begins a record."""
    ends, position, held = set(), 0, 0

    def lines() -> Iterator[str]:
        nonlocal position, held
        for line in data.splitlines(keepends=True):
            text = line[3:] if held == 0 and line.startswith(MARK) else line
            position, held = position + len(line), held + len(line)
            yield text.decode()

    for _ in csv.reader(lines()):
        ends.add(position)
        held = 0
    return ends


@given(st.lists(PIECES, max_size=20).map(b"".join), st.integers(1, 30), st.integers(1, 9))
def test_a_cut_is_the_end_of_a_record(data: bytes, part_bytes: int, piece_bytes: int) -> None:
    text = data.removeprefix(MARK) + b"\n"  # as the head of an object is taken off
    assume(CsvDialect().left_open(text) is None)
    cutter, cuts = CsvEnds(0, part_bytes, CsvDialect()), []
    for start in range(0, len(text), piece_bytes):
        cuts += cutter.feed(text[start : start + piece_bytes])
    cuts += cutter.finish()

    ends = record_ends(text)
    assert set(cuts) <= ends
    assert cuts[:1] == sorted(end for end in ends if end >= part_bytes)[:1]
