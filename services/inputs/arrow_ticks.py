"""Python values as pyarrow's arrays, exact to the nanosecond: pyarrow takes Python's times by the microsecond."""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

from services.inputs.nanoseconds import nanoseconds


def to_array(values: list[Any], kind: Any) -> Any:
    """Raises what pyarrow.array does, and OverflowError for a time that nanoseconds can't count."""
    import pyarrow

    return pyarrow.array([_ticks(value, kind) for value in values] if _counts_ticks(kind) else values, type=kind)


def _counts_ticks(kind: Any) -> bool:
    """Whether nanoseconds are anywhere in the type: pyarrow does not take those of our times."""
    from pyarrow import types

    if types.is_struct(kind) or types.is_list(kind) or types.is_map(kind):
        return any(_counts_ticks(kind.field(number).type) for number in range(kind.num_fields))
    return bool(types.is_temporal(kind) and not types.is_date(kind) and kind.unit == "ns")


def _ticks(value: Any, kind: Any) -> Any:
    """The value with a count of nanoseconds in place of each time whose type counts them."""
    import pyarrow

    match value:
        case Mapping() if isinstance(kind, pyarrow.MapType):
            return [(name, _ticks(item, kind.item_type)) for name, item in value.items()]
        case Mapping():
            kinds = {field.name: field.type for field in kind}
            return {name: _ticks(item, kinds[name]) if name in kinds else item for name, item in value.items()}
        case list() | tuple():
            return [_ticks(item, kind.value_type) for item in value]
        case datetime() if _counts_ticks(kind):
            return _since_epoch(value)
        case time() if _counts_ticks(kind):
            clock = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second)
            return nanoseconds(clock) + value.microsecond * 1000 + getattr(value, "nanosecond", 0)
        case timedelta() if _counts_ticks(kind):
            return nanoseconds(value)
    return value


def _since_epoch(moment: datetime) -> int:
    """In nanoseconds. Raises OverflowError."""
    epoch = datetime(1970, 1, 1, tzinfo=None if moment.tzinfo is None else UTC)
    whole = nanoseconds(moment - epoch) + getattr(moment, "nanosecond", 0)
    if not -(2**63) < whole < 2**63:
        raise OverflowError(f"{moment} is outside the years 1677 to 2262, which nanoseconds can count")
    return whole
