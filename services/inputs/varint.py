"""Integers as Protocol Buffers and Thrift's compact protocol write them: seven bits a byte, the lowest first."""


def write_varint(value: int) -> bytes:
    """A number that is not negative (unsigned LEB128)."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
