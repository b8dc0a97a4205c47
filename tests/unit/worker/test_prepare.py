"""What is done to an input before its processor sees it: torn records are found, whatever reads the part."""

import csv
import io
import random
from itertools import pairwise
from pathlib import Path

import pytest

from services.contract.task_error import TaskError
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines import record_ends as record_ends_module
from services.inputs.lines.record_ends import OpenQuote, record_ends
from services.worker.child.prepare import prepare

DIALECTS = [
    CsvDialect(),
    CsvDialect("|", "'"),
    CsvDialect(",", '"', "\\"),
    CsvDialect(";", None, "\\"),
    CsvDialect("\t", '"'),
]


def check(path: Path, data: bytes, dialect: CsvDialect, byte: int = 0) -> None:
    path.write_bytes(data)
    source = {"uri": "s3://b/in.csv", "byte": byte}
    arguments = {"csv": dialect.as_options("csv"), "format": "csv", "source": source}
    prepare([{"format": "csv", "step": "check_quotes", "arguments": arguments}], path)


def tear(rows: list[list[str]], part_bytes: int) -> tuple[list[bytes], list[bool]]:
    """CSV cut at line ends at about equal sizes, as a plain split does; and of each part whether it ends whole."""
    text, ends = io.StringIO(), {0}
    writer = csv.writer(text)
    for row in rows:
        writer.writerow(row)
        ends.add(len(text.getvalue().encode()))
    data = text.getvalue().encode()
    cuts = [0]
    while (cut := data.find(b"\n", cuts[-1] + part_bytes) + 1) and cut < len(data):
        cuts.append(cut)
    cuts.append(len(data))
    return [data[start:end] for start, end in pairwise(cuts)], [cut in ends for cut in cuts[1:]]


@pytest.mark.parametrize("seed", range(20))
def test_the_first_part_that_ends_in_a_record_is_found(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    fields = ["", "a", "it's", 'say "so"', '"', "two\nlines", "\r\n", 'x\n"y"\n', ",", '5" pipe']
    parts, whole = tear([[draw.choice(fields) for _ in range(3)] for _ in range(60)], draw.randint(1, 200))

    for number, part in enumerate(parts):
        if not whole[number]:
            with pytest.raises(TaskError) as torn:
                check(tmp_path / "part", part, CsvDialect())
            assert torn.value.type == "records_torn" and not torn.value.retryable
            return  # a part after it may begin torn, but the job has failed
        check(tmp_path / "part", part, CsvDialect())


def test_the_error_names_the_record_and_the_option(tmp_path: Path) -> None:
    part = b'id,note\n1,fine\n2,"5\'\n" more\n'

    check(tmp_path / "part", part, CsvDialect(), byte=1000)
    with pytest.raises(TaskError) as torn:
        check(tmp_path / "part", part[:-8], CsvDialect(), byte=1000)
    assert "s3://b/in.csv: the record at byte 1015 (line 3 of this part)" in torn.value.message
    assert "`multiline: true`" in torn.value.message


def reference(data: bytes, dialect: CsvDialect) -> tuple[list[int], bool]:
    """Byte by byte: where records end, and whether the end is within quotes."""
    quote, escape, delimiter = (
        (mark or "").encode() or None for mark in (dialect.quote, dialect.escape, dialect.delimiter)
    )
    ends, inside, begins, position = [], False, True, 0
    while position < len(data):
        byte = data[position : position + 1]
        if byte == escape:
            position, begins = position + 2, False
            continue
        if inside:
            if byte == quote:
                if data[position + 1 : position + 2] == quote:
                    position += 1
                else:
                    inside = False
            begins = False
        elif byte == quote and begins:
            inside = True
        else:
            begins = byte in (delimiter, b"\n", b"\r")
            if byte == b"\n":
                ends.append(position + 1)
        position += 1
    return ends, inside


def test_record_ends_are_the_reference_s_however_the_bytes_come() -> None:
    for seed in range(300):
        compare_with_reference(random.Random(seed))


def test_nothing_but_quotes_does_not_fill_the_memory() -> None:
    finder = record_ends(0, 100, CsvDialect(), None)

    with pytest.raises(OpenQuote):
        for _ in range(40):
            finder.feed(b'"' * (1 << 20))


@pytest.mark.parametrize("inside", [b"", b'"'])
@pytest.mark.parametrize("unit", [b"\\x", b"\\,", b"\\\n", b'\\x""'])
def test_a_long_run_of_escapes_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch, unit: bytes, inside: bytes) -> None:
    monkeypatch.setattr(record_ends_module, "_MARKS_BYTES_MAX", 64)  # of what waits to be looked at again
    data = inside + unit * 1000 + b"x" + inside + b"\n1\n"
    for size in (50, 51):
        finder = record_ends(0, 1, CsvDialect(escape="\\"), None)
        cuts = [cut for at in range(0, len(data), size) for cut in finder.feed(data[at : at + size])]
        assert cuts + finder.finish() == [len(data) - 2, len(data)]


def compare_with_reference(draw: random.Random) -> None:
    dialect = draw.choice(DIALECTS)
    marks = [mark for mark in (dialect.quote, dialect.quote, dialect.escape, dialect.delimiter) if mark]
    text = "".join(draw.choice([*marks, "a", "bc", "\n", "\r\n"]) for _ in range(draw.randint(0, 90)))
    data, part_bytes = text.encode(), draw.randint(1, 20)
    ends, inside = reference(data, dialect)
    expected: list[int] = []
    for end in ends:
        if end >= (expected[-1] if expected else 0) + part_bytes:
            expected.append(end)

    finder, found, position = record_ends(0, part_bytes, dialect, None), list[int](), 0
    while position < len(data):
        size = draw.randint(1, 9)
        cuts = finder.feed(data[position : position + size])
        assert all(cut >= position for cut in cuts), "what comes before is in its part already"
        found += cuts
        position += size
    try:
        found += finder.finish()
        opened = False
    except OpenQuote:
        opened = True
    assert found == expected
    if not (dialect.escape and text.endswith(dialect.escape)):  # what that escapes is not there
        assert opened == inside == (dialect.left_open(data) is not None)
