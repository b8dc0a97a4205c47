"""JSON as text, in and out, exactly: no number loses a digit, and nothing is written that is not JSON (RFC 8259)."""

import json
import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from services.contract.task_error import Malformed
from services.inputs.nanoseconds import duration_text

DEPTH_MAX = 200  # of values: what takes them apart, here or in a function, goes into each level
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789.", b"0000000000")
_MANY_DIGITS = b"0" * 17  # a float keeps any number of 15 digits; with the point and a zero before it, 17 characters
_FLOAT_DIGITS = 17  # of these every float can be told from the next
_LONG_NUMBER = re.compile(rb"[0-9.]{17,}")
_INTEGER_DIGITS = 18  # of these every integer has less than 64 bits
_SMALL = re.compile(rb"[eE]-\d{3}")  # numbers that a float may take for zero


def parse_json(raw: bytes) -> Any:
    """Any JSON value. A number is an int, a float, or, if a float is not exactly what is written, a Decimal.

    Uses orjson, which is several times as fast, and the standard reader for what orjson refuses or rounds. Of two equal
    keys the last one counts. Raises Malformed.
    """
    value = _parse(raw)
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _is_deep(value):
        raise Malformed(f"not JSON that can be read: more than {DEPTH_MAX} lists and objects within each other")
    return value


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are within each other more than DEPTH_MAX times."""
    level, depth = [value], 0
    while level := [each for each in level if type(each) is list or type(each) is dict]:
        if depth == DEPTH_MAX:
            return True
        level = [inner for each in level for inner in (each.values() if type(each) is dict else each)]
        depth += 1
    return False


def _parse(raw: bytes) -> Any:
    if keeps_digits(raw):
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
    text = decode(raw)
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Malformed("not JSON that can be read: nested too deeply") from None
    except Malformed:
        raise
    except ValueError:
        raise Malformed("not JSON that can be read: a number of more than 4300 digits") from None
    if "\\u" in text:
        _refuse_half_pairs(value)
    return value


def decode(raw: bytes) -> str:
    """The text of UTF-8; raises Malformed."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: byte {raw[error.start]:#04x} at byte {error.start} of the record") from None


def exact_number(text: str) -> float | Decimal:
    """The number that is written: a float if it prints as that number, otherwise a Decimal. Raises Malformed.

    Programs print a float with up to 17 digits, and the shortest text of it may have fewer: `0.10000000000000001`.
    """
    number = float(text)
    if repr(number) == text:
        return number
    try:
        exact = Decimal(text)
    except InvalidOperation:  # its exponent has more than 18 digits
        raise Malformed(f"not JSON that can be read: the number {text[:40]} is out of all bounds") from None
    if not math.isfinite(number):
        return exact
    digits = len(exact.as_tuple().digits)
    # Rounded to as many digits, or by the shortest text of it: these differ in the middle between two texts.
    printed = (f"{number:.{digits}g}", repr(number)) if digits <= _FLOAT_DIGITS else ()
    return number if exact in map(Decimal, printed) else exact


def keeps_digits(raw: bytes) -> bool:
    """Whether readers that make floats surely read every number in the JSON as it is written."""
    if (b"e-" in raw or b"E-" in raw) and _SMALL.search(raw):
        return False
    if _MANY_DIGITS not in raw.translate(_DIGITS_AS_ZEROS):
        return True
    for found in _LONG_NUMBER.finditer(raw):
        digits = found[0]
        if b"." not in digits:
            if len(digits) > _INTEGER_DIGITS:
                return False
        elif raw[found.end() : found.end() + 1] in (b"e", b"E") or not _is_float(digits):
            return False
    return True


def _is_float(digits: bytes) -> bool:
    try:
        return repr(float(digits)).encode() == digits
    except ValueError:
        return False  # digits of a text


def _refuse_constant(name: str) -> None:
    raise Malformed(f"not JSON: {name} is not a JSON number")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=exact_number)


def _refuse_half_pairs(value: Any) -> None:
    """Raises Malformed for text that no UTF-8 can hold."""
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Malformed("not Unicode: an escape that is half a surrogate pair") from None
        case list():
            for each in value:
                _refuse_half_pairs(each)
        case dict():
            for name, each in value.items():
                _refuse_half_pairs(name)
                _refuse_half_pairs(each)


class _HasDecimal(Exception):
    """The standard writer can't write a Decimal as a number."""


def _plain(value: Any) -> Any:
    """Convert values for which JSON has no type but Parquet and Python do."""
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, (UUID, Path)):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} can't be written as JSON")


def _plain_without_decimals(value: Any) -> Any:
    if isinstance(value, Decimal):
        raise _HasDecimal
    return _plain(value)


def _number(value: Decimal) -> Any:
    if not value.is_finite():
        raise ValueError(f"{value} is not a JSON number")
    return orjson.Fragment(str(value))


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain_without_decimals)

# For these types orjson accepts more than the standard writer does.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS


def encode_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; a Decimal is a number of all its digits. Raises Malformed.

    Uses orjson only where it agrees with the standard writer: it writes null for NaN and infinities.
    """
    try:
        encoded = orjson.dumps(value, _plain, _OPTIONS)
        if b"null" not in encoded:
            return encoded
    except orjson.JSONEncodeError:
        pass
    try:
        return _encoder.encode(value).encode()
    except _HasDecimal:
        return _encode_with_decimals(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"can't be written as JSON: {error}") from None


def encode_json_column(value: Any) -> str:
    """JSON for a column of DuckDB's type JSON, which makes floats of decimal numbers: a Decimal is text in it."""
    return encode_json(_with_texts(value)).decode()


def _with_texts(value: Any) -> Any:
    match value:
        case Decimal():
            return str(value)
        case list() | tuple():
            return [_with_texts(each) for each in value]
        case dict():
            return {name: _with_texts(each) for name, each in value.items()}
    return value


def _encode_with_decimals(value: Any) -> bytes:
    try:
        return orjson.dumps(_with_fragments(value), _plain, _OPTIONS)
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"can't be written as JSON: {error}") from None


def _with_fragments(value: Any) -> Any:
    """The value with ready text in place of the numbers that orjson does not write as they are."""
    match value:
        case float() if not math.isfinite(value):
            raise ValueError("Out of range float values are not JSON compliant")
        case bool():
            return value
        case int() if value.bit_length() > 63:
            return orjson.Fragment(str(value))
        case list() | tuple():
            return [_with_fragments(each) for each in value]
        case dict():
            return {name: _with_fragments(each) for name, each in value.items()}
    return value
