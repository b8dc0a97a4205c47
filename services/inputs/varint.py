"""Integers as Protocol Buffers, Thrift's compact protocol and snappy write them: seven bits a byte, lowest first."""

_BYTES_MAX = 10


def write_varint(value: int) -> bytes:
    """A number that is not negative (unsigned LEB128)."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """An integer, and where it ends."""
    value = 0
    for count, byte in enumerate(data[position : position + _BYTES_MAX]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, position + count + 1
    raise ValueError(f"the integer at byte {position} does not end")
