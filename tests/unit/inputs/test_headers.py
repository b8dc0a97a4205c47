"""A head is looked for in a few bytes only, whatever an object begins with."""

import contextlib
import gzip
import time
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from services.inputs.chunk import SplitError
from services.inputs.csv_dialect import CsvDialect
from services.inputs.lines.headers import HEADER_BYTES_MAX, find_head
from services.inputs.spec import LinesInput

SOURCE = LinesInput(type="lines", uri="s3://b/k", format="csv", multiline=True)


def test_a_quote_that_a_header_leaves_open_is_not_looked_for_in_all_that_follows() -> None:
    """Each line end might close the header."""
    data = b'"' + b"x\n" * 500_000

    with pytest.raises(SplitError, match=f"longer than {HEADER_BYTES_MAX} bytes"):
        find_head(data, SOURCE, last=True)


@pytest.mark.parametrize("unit", [b"\n", b'""\n', b'"x"\n', b'"\n",'])
def test_each_byte_of_a_header_is_looked_at_once(unit: bytes) -> None:
    data = b'"' + unit * (HEADER_BYTES_MAX // len(unit) + 1)
    began = time.thread_time()
    for _ in range(5):
        with contextlib.suppress(SplitError):
            find_head(data, SOURCE, last=True)
    assert time.thread_time() - began < 2, "quadratic, each took seconds"


@given(st.lists(st.sampled_from([b"a", b",", b'"', b"\n", b"\r", b"\xef\xbb\xbf"]), max_size=14).map(b"".join))
def test_a_record_ends_at_the_first_line_end_that_no_quote_holds(data: bytes) -> None:
    dialect = CsvDialect()
    ends = (end for end in range(1, len(data) + 1) if data[end - 1 : end] == b"\n")
    assert dialect.record_end(data) == next((end for end in ends if dialect.left_open(data[:end]) is None), None)


def test_an_escaped_line_end_does_not_end_a_record() -> None:
    assert CsvDialect(escape="\\").record_end(b"a\\\nb\nc\n") == 5
    assert CsvDialect(escape="\\").record_end(b"a\\") is None


def test_a_multiline_header_ends_with_its_record() -> None:
    head = find_head(b'"a\nb",c\n1,2\n', SOURCE, last=False)

    assert head is not None
    assert (head.bytes, head.header) == (8, '"a\nb",c\n')


@pytest.mark.parametrize(("compress", "compression"), [(gzip.compress, "gzip"), (zstandard.compress, "zstd")])
def test_what_is_compressed_unawares_is_not_text(compress: Callable[[bytes], bytes], compression: str) -> None:
    data = compress(b"a\nb\n")

    with pytest.raises(SplitError, match=f"s3://b/k begins like {compression}.*set compression: {compression}"):
        find_head(data, LinesInput(type="lines", uri="s3://b/k"), last=True)
    assert find_head(data, LinesInput(type="lines", uri="s3://b/k", compression="none"), last=True) is not None
