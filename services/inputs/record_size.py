"""The size that a record may have, so that what reads one can hold it. A larger one is rejected, and never held whole.

Commands and callables read their input themselves: for them there is no such limit.
"""

from services.contract.task_error import Malformed

RECORD_BYTES_MAX = 64 << 20  # as it is written; as a value it may take several times as much
_SHOWN_BYTES = 1 << 20  # of a longer one


class LongRecord(bytes):
    """The first bytes of a record that is longer than a record may be; it has `size` bytes, or more."""

    size: int

    @classmethod
    def beginning(cls, data: bytes, size: int) -> "LongRecord":
        record = cls(data[:_SHOWN_BYTES])
        record.size = size
        return record


def size_of(raw: bytes) -> int:
    """The bytes of a raw record."""
    return raw.size if isinstance(raw, LongRecord) else len(raw)


def check_size(size: int) -> None:
    """Raises Malformed for a record of more bytes than one may have."""
    if size > RECORD_BYTES_MAX:
        raise Malformed(f"the record is longer than {RECORD_BYTES_MAX} bytes, the most that a record may have")
