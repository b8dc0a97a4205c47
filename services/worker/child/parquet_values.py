"""The type of a Parquet column, found from its values; and values as that type, exactly or not at all.

pyarrow alone would make 1 of 1.5 in a column of whole numbers, drop the time of a day and the zone of a time, and
nanoseconds, which Python's own times lack.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.arrow_ticks import to_array
from services.inputs.arrow_values import can_be_written

_DIGITS = 38  # of a decimal, whatever the first values have


def check_names(record: Mapping[Any, Any]) -> None:
    """Raises Malformed for a key that can't be a column's name."""
    for name in record:
        if not isinstance(name, str):
            raise Malformed(f"a column's name must be text, {name!r} is of type {type(name).__name__}")
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise Malformed(f"can't be written as Parquet: the name {name!r}: {error.reason}") from None


def type_of(values: list[Any]) -> Any:
    """The type that holds all the values, else the first value's type; text if there are no values.

    Text, too, if Parquet lacks the type (an interval, a dict without keys).
    """
    import pyarrow

    found = _infer(values)
    if found is None:
        found = _infer([next(value for value in values if value is not None)])
    if found is None or pyarrow.types.is_null(found) or not can_be_written(found):
        return pyarrow.string()
    return found


def column(field: Any, values: list[Any]) -> Any:
    """The values as a pyarrow.Array of the field's type. Raises Malformed if one would not be what it was."""
    import pyarrow

    kind = field.type
    try:
        _check(kind, values)
        made = to_array(values, kind)
        if _has_fields(kind) and not _holds(kind, _array(values).type):
            raise Malformed(f"column {field.name!r} is of type {kind}, the record has further fields in it")
    except Malformed:
        raise
    except (pyarrow.ArrowException, TypeError, ValueError, ArithmeticError) as error:
        raise Malformed(f"column {field.name!r} is of type {kind}: {error}") from None
    return made


def _infer(values: list[Any]) -> Any:
    import pyarrow

    try:
        return _refined(_array(values).type, values)
    except (pyarrow.ArrowException, TypeError, ValueError, ArithmeticError):
        return None


def _array(values: list[Any]) -> Any:
    """Of the type that pyarrow finds; integers are decimals if they are beyond 64 bits or among decimals."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (OverflowError, pyarrow.ArrowInvalid):
        return pyarrow.array([_with_decimals(value) for value in values])


def _with_decimals(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int():
            return Decimal(value)
        case Mapping():
            return {name: _with_decimals(item) for name, item in value.items()}
        case list() | tuple():
            return [_with_decimals(item) for item in value]
    return value


def _refined(kind: Any, values: list[Any]) -> Any:
    """The inferred type with room for longer decimals, and nanoseconds where the values have any."""
    import pyarrow
    from pyarrow import types

    if types.is_decimal128(kind):
        return pyarrow.decimal128(_DIGITS, kind.scale)
    if types.is_struct(kind):
        return pyarrow.struct([(field.name, _refined(field.type, _items(values, field.name))) for field in kind])
    if types.is_list(kind):
        return pyarrow.list_(_refined(kind.value_type, _elements(values)))
    if types.is_temporal(kind) and any(getattr(value, "nanosecond", 0) for value in values):
        if types.is_timestamp(kind):
            return pyarrow.timestamp("ns", kind.tz)
        return pyarrow.time64("ns") if types.is_time(kind) else pyarrow.duration("ns")
    return kind


def _check(kind: Any, values: list[Any]) -> None:
    """Raises ValueError for a value that pyarrow would silently change."""
    from pyarrow import types

    if types.is_struct(kind):
        for field in kind:
            _check(field.type, _items(values, field.name))
    elif types.is_list(kind):
        _check(kind.value_type, _elements(values))
    elif types.is_integer(kind):
        if any(value % 1 != 0 for value in _of(values, float, Decimal)):
            raise ValueError("a value has a fraction")
    elif types.is_temporal(kind):
        _check_times(kind, values)


def _check_times(kind: Any, values: list[Any]) -> None:
    from pyarrow import types

    if odd := _of(values, *((datetime, int) if types.is_date(kind) else (int,))):
        raise ValueError(f"a value is of type {type(odd[0]).__name__}")
    if types.is_timestamp(kind) and any((value.tzinfo is None) != (kind.tz is None) for value in _of(values, datetime)):
        raise ValueError(f"a value has {'no' if kind.tz else 'a'} time zone")
    if not types.is_date(kind) and kind.unit != "ns" and any(getattr(value, "nanosecond", 0) for value in values):
        raise ValueError("a value has nanoseconds")


def _of(values: list[Any], *classes: type) -> list[Any]:
    """The values of these classes; quick if there are none."""
    if not any(issubclass(cls, classes) for cls in set(map(type, values))):
        return []
    return [value for value in values if isinstance(value, classes)]


def _items(values: list[Any], name: str) -> list[Any]:
    return [value.get(name) for value in values if isinstance(value, Mapping)]


def _elements(values: list[Any]) -> list[Any]:
    return [item for value in values if isinstance(value, (list, tuple)) for item in value]


def _has_fields(kind: Any) -> bool:
    """Whether a struct is in the type: pyarrow silently drops keys that a struct lacks, at any depth."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return True
    return pyarrow.types.is_list(kind) and _has_fields(kind.value_type)


def _holds(kind: Any, found: Any) -> bool:
    """Whether every field of the found type is one of this type's, too."""
    import pyarrow

    if pyarrow.types.is_struct(kind) and pyarrow.types.is_struct(found):
        names = {field.name for field in kind}
        return all(field.name in names and _holds(kind.field(field.name).type, field.type) for field in found)
    if pyarrow.types.is_list(kind) and pyarrow.types.is_list(found):
        return _holds(kind.value_type, found.value_type)
    return True
