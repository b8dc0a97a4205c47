"""What a file is by its first bytes, and what text is not taken for anything else."""

import bz2
import gzip
import lzma

import pytest
import zstandard

from services.inputs.magic import looks_like_text, recognise


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (gzip.compress(b"x", mtime=0), "gzip"),
        (zstandard.compress(b"x"), "zstd"),
        (b"\x5a\x2a\x4d\x18" + bytes(9), "zstd"),
        (bz2.compress(b"x"), "bzip2"),
        (bz2.compress(b""), "bzip2"),
        (lzma.compress(b"x"), "xz"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"PARE\x15\x04", "Parquet with an encrypted footer"),
        (b"ARROW1\0\0", "an Arrow file"),
        (b"\xff\xff\xff\xff\x70\0\0\0", "an Arrow stream"),
        (b"Obj\x01\x04", "Avro"),
        (b"ORC\x1c\0\0", "ORC"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\x0000", "tar"),
        *((text.encode(code), f"{code[:3].upper()}-{code[4:6]} text")
          for code in ("utf_16", "utf_16_le", "utf_16_be", "utf_32", "utf_32_le", "utf_32_be")
          for text in ('{"id": 1}\n', "größe,名前\n1,東京\n")),
    ],
)  # fmt: skip
def test_a_signature_or_an_encoding_is_recognised(head: bytes, name: str) -> None:
    found = recognise(head)
    assert found is not None and found.name == name
    assert not looks_like_text(head)


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"PAR1,a\n", b"ORCHARD\n", b"BZh9 is a header\n", b"Obj", b"PK\n", b"caf\xe9\n", b"\xef\xbb\xbfid\n"),
        "größe,東京\n".encode(),
        b"a\tb\r\n\x1b[1m\x0c\x07",
    ],
)
def test_text_is_text_whatever_it_begins_with(head: bytes) -> None:
    assert recognise(head) is None
    assert looks_like_text(head)


@pytest.mark.parametrize("head", [b"a\0b,c\n" * 9, bytes(100), bytes(range(256)) * 9, b"id\x01name\n1\x01a\n"])
def test_other_bytes_are_not_taken_for_a_wide_encoding(head: bytes) -> None:
    assert recognise(head) is None
    assert not looks_like_text(head)
