"""The columns of records: their names and types, which are the same for every part of an input.

A type is JSON, as a job's specification has it: `text`, `int64`, `float64`, `bool`, `date`, `timestamp`,
`decimal(P,S)` (up to 38 digits, S of them after the point), `json` (any value); `[type]` for a list; and for an object
the types of its fields by name.

A value fits its type exactly or not at all: no integer and no decimal number passes through a float.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.json_text import encode_json, encode_json_column, exact_number, parse_json

Type = str | list[Any] | dict[str, Any]
Columns = dict[str, Type]
Convert = Callable[[Any], Any]

DIGITS_MAX = 38  # of a decimal, in SQL as in Parquet
DEPTH_MAX = 20  # of a type
_SIMPLE = ("text", "int64", "float64", "bool", "date", "timestamp", "json")
_DECIMAL = re.compile(r"decimal\(\s*([1-9]\d?)\s*,\s*(\d\d?)\s*\)", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER_DIGITS_MAX = 4300  # Python makes no integer of more
_FLOAT_INTEGER_MAX = 1 << 53


def check_type(value: Any, depth: int = 0) -> Type:
    """The value, if it is a type. Raises ValueError."""
    if depth > DEPTH_MAX:
        raise ValueError(f"a type has at most {DEPTH_MAX} levels")
    match value:
        case str():
            found = _DECIMAL.fullmatch(value)
            if value in _SIMPLE or (found and int(found[2]) <= int(found[1]) <= DIGITS_MAX):
                return value
        case [element]:
            return [check_type(element, depth + 1)]
        case dict() if value:
            return {str(name): check_type(kind, depth + 1) for name, kind in value.items()}
    known = f"{', '.join(_SIMPLE)}, decimal(P,S) with P up to {DIGITS_MAX} and S up to P"
    raise ValueError(f"{value!r} is not a type: write one of {known}; [type] for a list; or a mapping of fields")


def decimal_digits(kind: Type) -> tuple[int, int] | None:
    """Precision and scale of a decimal type; None for another type."""
    found = _DECIMAL.fullmatch(kind) if isinstance(kind, str) else None
    return (int(found[1]), int(found[2])) if found else None


def from_json(kind: Type) -> Convert:
    """Converts JSON values (numbers as `lines.records.parse_json` has them) to the type; raises Malformed.

    Text takes any value, as JSON writes it; json takes any, too, and gives its JSON text.
    """
    match kind:
        case [element]:
            return _list_of(from_json(element))
        case dict():
            return _object_of({name: from_json(inner) for name, inner in kind.items()})
        case "text":
            return _text
        case "json":
            return _json
        case "bool":
            return _bool
        case "int64":
            return _int64
        case "float64":
            return _float64
        case "date":
            return _date
        case "timestamp":
            return _timestamp
    digits = decimal_digits(kind)
    assert digits is not None
    return _decimal_of(*digits)


def from_text(kind: Type) -> Convert:
    """Converts the text of a field (of CSV or XML) to the type; empty text is None, but of the type text itself."""
    convert, read = from_json(kind), _READ.get(kind if isinstance(kind, str) else "json", _number)

    def converted(value: Any) -> Any:
        if value == "" or value is None:
            return value if kind == "text" else None
        return convert(read(value) if isinstance(value, str) else value)

    return converted


def misfit(value: Any, kind: Type) -> Malformed:
    """The error for a value that is not of the type; the value is shown cut."""
    shown = "a number of many digits" if isinstance(value, int) and value.bit_length() > 4096 else repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    return Malformed(f"{shown} is not of the type {kind if isinstance(kind, str) else _written(kind)}")


def _written(kind: Type) -> str:
    return json.dumps(kind, ensure_ascii=False)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if type(value) is str:
        return _storable(value)
    return encode_json(value).decode()


def _json(value: Any) -> str | None:
    return None if value is None else encode_json_column(value)


def _storable(value: str) -> str:
    """The text, if it can be UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"half a surrogate pair, at character {error.start} of the text") from None
    return value


def _bool(value: Any) -> bool | None:
    if value is None or value is True or value is False:
        return value
    raise misfit(value, "bool")


def _int64(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, (float, Decimal)) and value == (whole := _whole(value)):
        value = whole
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise misfit(value, "int64")
    return value


def _whole(value: float | Decimal) -> int | None:
    """The integer that a number is; None if it is none, or too large to be told from the next."""
    if isinstance(value, float) and not abs(value) <= _FLOAT_INTEGER_MAX:
        return None
    if isinstance(value, Decimal) and not (value.is_finite() and value.adjusted() < 20):
        return None
    return int(value)


def _float64(value: Any) -> float | None:
    match value:
        case None | float():
            return value
        case bool():
            pass
        case int() if abs(value) <= _FLOAT_INTEGER_MAX or _same(value):
            return float(value)
    raise misfit(value, "float64")


def _same(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _decimal_of(precision: int, scale: int) -> Convert:
    kind = f"decimal({precision},{scale})"

    def convert(value: Any) -> Decimal | None:
        if value is None:
            return None
        if type(value) is bool or not isinstance(value, (int, float, Decimal)):
            raise misfit(value, kind)
        if type(value) is int and value.bit_length() > 200:
            raise misfit(value, kind)
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        sign, digits, exponent = number.as_tuple()
        if not isinstance(exponent, int):  # NaN or an infinity
            raise misfit(value, kind)
        if not number:
            return number if -scale <= exponent <= 0 else Decimal(0)
        if number.adjusted() >= precision - scale:
            raise misfit(value, kind)
        if -exponent <= scale:
            return number
        kept = len("".join(map(str, digits)).rstrip("0"))
        if -(exponent + len(digits) - kept) > scale:
            raise misfit(value, kind)
        return Decimal((sign, digits[:kept], exponent + len(digits) - kept))

    return convert


def _date(value: Any) -> date | None:
    """ISO 8601, `2026-11-29`."""
    if value is None or (type(value) is date):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise misfit(value, "date")


_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(:\d\d(\.\d{1,6})?)?)(Z|[+-]\d\d(:?\d\d)?)?", re.ASCII | re.IGNORECASE
)


def _timestamp(value: Any) -> datetime | None:
    """ISO 8601 with up to six digits of a second, in UTC if it names a zone; a day is its midnight."""
    if value is None or isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            if _TIMESTAMP.fullmatch(value):
                return _in_utc(datetime.fromisoformat(value.upper()))
            if re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
                return datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            pass
    raise misfit(value, "timestamp")


def _in_utc(value: datetime) -> datetime:
    offset = value.utcoffset()
    return value if offset is None else value.replace(tzinfo=None) - timedelta(seconds=offset.total_seconds())


def _list_of(convert: Convert) -> Convert:
    def converted(value: Any) -> list[Any] | None:
        if value is None:
            return None
        if not isinstance(value, list):
            raise misfit(value, "list")
        return [convert(each) for each in value]

    return converted


def _object_of(fields: Mapping[str, Convert]) -> Convert:
    def converted(value: Any) -> dict[str, Any] | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise misfit(value, "object")
        if unknown := value.keys() - fields.keys():
            raise Malformed(
                f"has the field {min(unknown)!r}, which its column's type lacks: declare the column as json"
            )
        return {name: convert_field(name, convert, value.get(name)) for name, convert in fields.items()}

    return converted


def convert_field(name: str, convert: Convert, value: Any) -> Any:
    """The converted value; raises Malformed, which names the column (or field of one)."""
    try:
        return convert(value)
    except Malformed as error:
        raise Malformed(f"{name}: {error}") from None


def _number(text: str) -> Any:
    """A number as JSON would read it, and exactly; the text itself if it is none."""
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _INTEGER_DIGITS_MAX else text
    return exact_number(text) if _NUMBER.fullmatch(text) else text


def _read_bool(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), text)


def _read_json(text: str) -> Any:
    return parse_json(text.encode())


def _as_it_is(text: str) -> str:
    return text


_READ = {"text": _as_it_is, "date": _as_it_is, "timestamp": _as_it_is, "bool": _read_bool, "json": _read_json}
