"""Avro's logical types, as fastavro reads them, but exact, and with a mark for a value that Python can't hold.

fastavro knows a logical type by its name. So ours have names of their own, which a copy of the file's schema uses:
what a user's function reads by fastavro in the same process stays as it is.
https://avro.apache.org/docs/1.12.0/specification/#logical-types
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Context, Decimal
from functools import partial
from typing import Any, NamedTuple

from services.inputs.nanoseconds import Datetime

_PREFIX = "piecework-"
_marks: list[str] = []  # why values of the datum that is being read are unreadable
_EPOCHS = {"timestamp-nanos": datetime(1970, 1, 1, tzinfo=UTC), "local-timestamp-nanos": datetime(1970, 1, 1)}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that Python can't hold, or that is not what its type says."""

    value: Any

    def __str__(self) -> str:
        return str(self.value)


class Duration(NamedTuple):
    """A value of the logical type `duration`."""

    months: int
    days: int
    milliseconds: int


def with_own_names(schema: Any) -> Any:
    """The schema, with our names for the logical types; registers how these are read."""
    from fastavro.read import LOGICAL_READERS

    own: dict[str, Callable[..., Any]] = {
        "bytes-decimal": _decimal,
        "fixed-decimal": _decimal,
        "fixed-duration": _duration,
        "int-time-millis": partial(_time, 1000),
        "long-time-micros": partial(_time, 1),
        **{f"long-{name}": _nanoseconds for name in _EPOCHS},
    }
    readers = {key: reader for key, reader in LOGICAL_READERS.items() if f"-{_PREFIX}" not in key} | own
    for key, reader in readers.items():
        kind, _, name = key.partition("-")
        LOGICAL_READERS[f"{kind}-{_PREFIX}{name}"] = _marking(name, reader)
    return _renamed(schema)


def take_mark() -> str | None:
    """Why the datum that was just read has a value that is Unreadable, if it has one."""
    if not _marks:
        return None
    reason = _marks[0]
    _marks.clear()
    return reason


def logical_name(schema: Mapping[str, Any]) -> str | None:
    """The name of a schema's logical type as the file has it."""
    name: str | None = schema.get("logicalType")
    return name.removeprefix(_PREFIX) if name else None


def holds_itself(schema: Any, inside: frozenset[str] = frozenset()) -> bool:
    """Whether a type of the schema is within itself; namespaces are not looked at."""
    match schema:
        case str():
            return schema.rpartition(".")[2] in inside
        case list():
            return any(holds_itself(branch, inside) for branch in schema)
        case {"type": "record" | "error", "name": str(name), "fields": list(fields)}:
            within = inside | {name.rpartition(".")[2]}
            return any(holds_itself(field["type"], within) for field in fields)
        case dict():
            return any(holds_itself(schema[key], inside) for key in ("type", "items", "values") if key in schema)
    return False


def _renamed(schema: Any) -> Any:
    match schema:
        case {"logicalType": str(name)}:
            return {key: _renamed(value) for key, value in schema.items()} | {"logicalType": _PREFIX + name}
        case dict():
            return {key: _renamed(value) for key, value in schema.items()}
        case list():
            return [_renamed(item) for item in schema]
    return schema


def _marking(name: str, reader: Callable[..., Any]) -> Callable[..., Any]:
    def read(value: Any, *schemas: Any) -> Any:
        try:
            return reader(value, *schemas)
        except (ValueError, ArithmeticError) as error:
            _marks.append(f"the {name} {value!r} can't be read: {error}")
            return Unreadable(value)

    return read


def _decimal(value: bytes, schema: Mapping[str, Any], *_: Any) -> Decimal:
    """Of any length: fastavro rounds to the schema's precision."""
    whole = Decimal(int.from_bytes(value, "big", signed=True))
    return whole.scaleb(-schema.get("scale", 0), Context(prec=max(len(value) * 3, 1)))


def _duration(value: bytes, *_: Any) -> Duration:
    return Duration(*(int.from_bytes(value[start : start + 4], "little") for start in (0, 4, 8)))


def _time(microseconds: int, value: int, *_: Any) -> time:
    """fastavro takes a time before midnight for one of the day before."""
    if not 0 <= value * microseconds < 86_400_000_000:
        raise ValueError("it is not within a day")
    return (datetime.min + timedelta(microseconds=value * microseconds)).time()


def _nanoseconds(value: int, schema: Mapping[str, Any], *_: Any) -> Datetime:
    microseconds, nanosecond = divmod(value, 1000)
    epoch = _EPOCHS[logical_name(schema) or ""]
    return Datetime.of(epoch + timedelta(microseconds=microseconds), nanosecond)
