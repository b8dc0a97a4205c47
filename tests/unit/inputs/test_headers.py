"""A head is looked for in a few bytes only, whatever an object begins with."""

import gzip
from collections.abc import Callable

import pytest
import zstandard

from services.inputs.chunk import SplitError
from services.inputs.lines.headers import HEADER_BYTES_MAX, find_head
from services.inputs.spec import LinesInput

SOURCE = LinesInput(type="lines", uri="s3://b/k", format="csv", multiline=True)


def test_a_quote_that_a_header_leaves_open_is_not_looked_for_in_all_that_follows() -> None:
    """Each line end might close the header, and to tell that all before it is read again."""
    data = b'"' + b"x\n" * 500_000

    with pytest.raises(SplitError, match=f"longer than {HEADER_BYTES_MAX} bytes"):
        find_head(data, SOURCE, last=True)


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
