"""What a text lacks at its end, and what is not text."""

import gzip
from pathlib import Path

import pytest

from services.inputs.text_ends import TextEnds, file_ends

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "data", "ends"),
    [
        ("a.csv", b"a\nb", TextEnds(b"", b"\n")),
        ("a.csv", b"a\nb\n", TextEnds()),
        ("a.csv", b"a\r\nb", TextEnds(b"", b"\r\n")),
        ("a.csv", b"a\r\nb\r", TextEnds(b"", b"\n")),
        ("a.csv", b"a\r\nb\nc", TextEnds(b"", b"\n")),
        ("a.csv", b"", TextEnds()),
        ("a.csv", MARK + b"a", TextEnds(MARK, b"\n")),
        ("a.jsonl", b"x" * 200_000, TextEnds(b"", b"\n")),
        ("a.txt", b"\x00\x01 not text, but its name says so", TextEnds(b"", b"\n")),
        ("a.txt", b"PAR1\x15\x04", TextEnds()),
        ("a.txt", "a\nb".encode("utf-16-be"), TextEnds()),
        ("a", "a\r\nb".encode("utf-16"), TextEnds(b"\xff\xfe", b"\r\0\n\0")),
        ("a", b"text", TextEnds(b"", b"\n")),
        ("a", b"text" + bytes(9), None),
        ("a.vcf", b"text", TextEnds(b"", b"\n")),
        ("a.dat", b"text", None),
        ("a.parquet", b"text", None),
        ("a.csv.gz", gzip.compress(b"a\n", mtime=0), TextEnds()),
        ("a.csv.gz", gzip.compress(b"a", mtime=0), TextEnds(b"", gzip.compress(b"\n", mtime=0))),
        ("a.csv.gz", gzip.compress(b"a", mtime=0)[:-1], TextEnds()),
        ("a.gz", gzip.compress(bytes(9), mtime=0), None),
    ],
)
def test_how_a_file_ends(tmp_path: Path, name: str, data: bytes, ends: TextEnds | None) -> None:
    (tmp_path / name).write_bytes(data)
    assert file_ends(tmp_path / name) == ends
