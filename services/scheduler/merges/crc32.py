"""CRC-32 (zlib's) of joined bytes from those of the pieces: no byte is read for it.

A CRC is a polynomial over GF(2) modulo that of CRC-32, with the coefficient of x⁰ in the highest bit. Bytes that follow
multiply it by x⁸ each.
"""

import base64
from collections.abc import Iterator
from functools import cache

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def combine(first: int | None, second: int | None, second_bytes: int) -> int | None:
    """The CRC-32 of two pieces of bytes end to end; None if that of either is not known.

    As it is linear, it also gives the CRC of the second piece from those of the first and of both.
    """
    if first is None or second is None:
        return None
    return _multiply(_shift(second_bytes), first) ^ second


def encode(crc32: int) -> str:
    """As S3 writes it in `x-amz-checksum-crc32`: base64 of four bytes, the highest first."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def _multiply(a: int, b: int) -> int:
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _squares() -> Iterator[int]:
    """x⁸, x¹⁶, x³², …: what 1, 2, 4, … bytes multiply by."""
    power = _ONE >> 8
    for _ in range(64):
        yield power
        power = _multiply(power, power)


_SQUARES = tuple(_squares())


@cache
def _digit(value: int, place: int) -> int:
    """x to the power of 8 times `value` times 256 to the power of `place`."""
    power = _ONE
    for bit in range(8):
        if value >> bit & 1:
            power = _multiply(_SQUARES[8 * place + bit], power)
    return power


def _shift(count: int) -> int:
    """x to the power of 8 times `count`."""
    power = _ONE
    for place in range((count.bit_length() + 7) // 8):
        power = _multiply(_digit(count >> 8 * place & 255, place), power)
    return power
