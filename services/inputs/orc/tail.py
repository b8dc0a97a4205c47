"""The tail of an ORC file: where its stripes are, and a new tail for a file with only some of them.

pyarrow does not expose tails. The format: https://orc.apache.org/specification/ORCv1, "File Tail". A file ends
with its footer, which may be compressed, its postscript, and the postscript's length in one byte. Nothing in a stripe
says where in the file it is, so stripes can be moved from file to file as they are.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.inputs.chunk import SplitError
from services.inputs.orc.compression import decompress
from services.inputs.orc.protobuf import Field, fields, integer, message

MAGIC = b"ORC"
_FOOTER_BYTES_MAX = 67_108_864
_BLOCK_BYTES = 262_144  # unless the postscript says another
_BLOCK_BYTES_MAX = 8_388_607  # a chunk's header has no room for more

# Fields of the messages PostScript, Footer, Type and StripeInformation.
_FOOTER_LENGTH, _COMPRESSION, _BLOCK_SIZE, _METADATA_LENGTH, _STATISTICS_LENGTH, _MAGIC = 1, 2, 3, 5, 7, 8000
_CONTENT_LENGTH, _STRIPES, _TYPES, _ROWS, _STATISTICS, _ENCRYPTION = 2, 3, 4, 6, 7, 10
_FIELD_NAMES = 3
_OFFSET, _INDEX_LENGTH, _DATA_LENGTH, _STRIPE_FOOTER_LENGTH, _STRIPE_ROWS = 1, 2, 3, 4, 5


class OrcError(SplitError):
    """The object is not an ORC file that can be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Stripe:
    """A stripe's bytes in the file, and its StripeInformation without the offset."""

    start: int
    end: int
    rows: int
    facts: bytes

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Tail:
    """The stripes, in order; and the encoded fields of PostScript and Footer that hold for any subset of stripes."""

    stripes: list[Stripe]
    postscript: bytes
    footer: bytes
    compression: int
    block_bytes: int


def footer_bytes(uri: str, tail: bytes, size: int) -> int:
    """The length of footer and postscript together, of a file of `size` bytes that ends with `tail`."""
    postscript = _read_postscript(uri, tail)
    length = _integer(postscript, _FOOTER_LENGTH) + tail[-1] + 1
    if length > size - len(MAGIC):  # which begins the file
        raise OrcError(f"{uri} can't be read as an ORC file: it names a footer of {length} bytes, longer than the file")
    if length > _FOOTER_BYTES_MAX:
        raise OrcError(f"{uri} names a footer of {length} bytes; at most {_FOOTER_BYTES_MAX} are read")
    return length


def parse_tail(uri: str, tail: bytes, size: int) -> Tail:
    """Read the tail of a file of `size` bytes; `tail` has the length that `footer_bytes` returns. Raises OrcError."""
    postscript = _read_postscript(uri, tail)
    compression = _integer(postscript, _COMPRESSION)
    block_bytes = _integer(postscript, _BLOCK_SIZE) or _BLOCK_BYTES
    if block_bytes > _BLOCK_BYTES_MAX:
        raise OrcError(f"{uri} has a postscript that can't be read: it names blocks of {block_bytes} bytes")
    try:
        footer = list(fields(decompress(tail[: -tail[-1] - 1], compression, block_bytes)))
        stripes = list(_read_stripes(footer, size - len(tail)))
        _refuse_equal_names(footer)
    except ValueError as error:
        raise OrcError(f"{uri} has a footer that can't be read: {error}") from None
    if any(field.number == _ENCRYPTION for field in footer):
        raise OrcError(f"{uri} has encrypted columns, which can't be read: write it without encryption")
    of_postscript = _without(postscript, _FOOTER_LENGTH, _METADATA_LENGTH, _STATISTICS_LENGTH)
    of_footer = _without(footer, _CONTENT_LENGTH, _STRIPES, _ROWS, _STATISTICS)
    return Tail(stripes, of_postscript, of_footer, compression, block_bytes)


def make_tail(tail: Tail, stripes: Sequence[Stripe], moved: int) -> bytes:
    """The tail of a file that has only these neighbouring stripes, each moved by `moved` bytes.

    It has no statistics: the file's statistics cover all of its stripes.
    """
    placed = (integer(_OFFSET, stripe.start + moved) + stripe.facts for stripe in stripes)
    footer = tail.footer + b"".join(message(_STRIPES, stripe) for stripe in placed)
    footer += integer(_CONTENT_LENGTH, stripes[-1].end + moved - len(MAGIC))
    footer += integer(_ROWS, sum(stripe.rows for stripe in stripes))
    if tail.compression:
        footer = b"".join(_original(footer, tail.block_bytes))
    postscript = tail.postscript + integer(_FOOTER_LENGTH, len(footer))
    return footer + postscript + bytes([len(postscript)])


def _original(data: bytes, block_bytes: int) -> Iterator[bytes]:
    """The data as chunks that are marked as not compressed."""
    for start in range(0, len(data), block_bytes):
        chunk = data[start : start + block_bytes]
        yield (len(chunk) << 1 | 1).to_bytes(3, "little") + chunk


def _read_postscript(uri: str, tail: bytes) -> list[Field]:
    try:
        postscript = list(fields(tail[-tail[-1] - 1 : -1]))
    except (ValueError, IndexError):
        postscript = []
    if not any(field.number == _MAGIC and field.value == MAGIC for field in postscript):
        raise OrcError(f"{uri} is not an ORC file: it does not end with an ORC postscript")
    return postscript


def _read_stripes(footer: Sequence[Field], footer_start: int) -> Iterator[Stripe]:
    """Raises ValueError for stripes that overlap or are outside of the file."""
    end = len(MAGIC)
    for field in footer:
        if field.number == _STRIPES and isinstance(field.value, bytes):
            facts = list(fields(field.value))
            start = _integer(facts, _OFFSET)
            length = sum(_integer(facts, part) for part in (_INDEX_LENGTH, _DATA_LENGTH, _STRIPE_FOOTER_LENGTH))
            if start < end or start + length > footer_start:
                raise ValueError(f"a stripe is said to be at bytes {start} to {start + length}")
            end = start + length
            yield Stripe(start, end, _integer(facts, _STRIPE_ROWS), _without(facts, _OFFSET))


def _refuse_equal_names(footer: Sequence[Field]) -> None:
    """Raises ValueError. Each Type that is a struct names its fields; the first one is the row's."""
    types = [list(fields(field.value)) for field in footer if field.number == _TYPES and isinstance(field.value, bytes)]
    for number, type in enumerate(types):
        names = [field.value for field in type if field.number == _FIELD_NAMES and isinstance(field.value, bytes)]
        if twice := next((name for name, times in Counter(names).items() if times > 1), None):
            what = "column" if number == 0 else "field"
            raise ValueError(f"it names the {what} {twice.decode(errors='replace')!r} twice: rename one of them")


def _integer(facts: Sequence[Field], number: int) -> int:
    """Zero if it is not there."""
    return next((field.value for field in facts if field.number == number and isinstance(field.value, int)), 0)


def _without(facts: Sequence[Field], *numbers: int) -> bytes:
    return b"".join(field.raw for field in facts if field.number not in numbers)
