"""Python values of pyarrow's arrays: those of `to_pylist`, but exact, and the same whatever else is installed.

pyarrow gives pandas' types for nanoseconds if pandas is there, and refuses them if not; it turns a time of day beyond
24 hours into another one. A value that Python can't hold (a date in the year 20210, text that is not UTF-8) fails
only its own cell, and by that its own row.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.nanoseconds import Datetime, Time, Timedelta

_SHOWN_BYTES = 1000  # of a cell that can't be read
_FAULTS_OF_CELLS = (  # in pyarrow's errors
    "Invalid UTF8",
    "Dictionary indices invalid",
    "does not fit in precision",
    "is not within the acceptable range",
    "does not represent a whole number of days",
)
_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def rows(batch: Any, names: Sequence[str]) -> list[dict[str, Any] | Malformed]:
    """The rows of a record batch as dicts by these names; Malformed, which says why, for one that Python can't hold.

    The batch is one that a reader has made, or that `check_structure` has found sound.
    """
    columns, bad = [], dict[int, Malformed]()
    for name, column in zip(names, batch.columns, strict=True):
        try:
            columns.append(values(column))
        except MemoryError:
            raise
        except Exception:  # pyarrow raises many kinds
            cells = each_cell(name, column, values, bad)
            columns.append([None if cell is None else cell[0] for cell in cells])
    found: Any = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    for index, reason in bad.items():
        found[index] = reason
    return found if names else [{} for _ in range(batch.num_rows)]


def shown_row(batch: Any, names: Sequence[str], index: int) -> dict[str, Any]:
    """A row with text in place of each value that Python can't hold."""
    return {name: _shown_cell(column.slice(index, 1)) for name, column in zip(names, batch.columns, strict=True)}


def values(array: Any) -> list[Any]:
    """The values of a pyarrow.Array. Raises ValueError, OverflowError and others if Python can't hold one."""
    convert = _converter(array.type)
    found: list[Any] = array.to_pylist() if convert is None else convert(array)
    return found


def can_be_written(kind: Any) -> bool:
    """Whether Parquet has a column of such a type."""
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(pyarrow.table({"c": pyarrow.nulls(1, kind)}), pyarrow.BufferOutputStream())
    except (pyarrow.ArrowException, OSError):
        return False
    return True


def each_cell(name: str, column: Any, convert: Callable[[Any], Any], bad: dict[int, Malformed]) -> list[Any]:
    """What `convert` makes of each cell, an array of one value; None if it raises: `bad` says why, by the row."""
    cells = []
    for index in range(len(column)):
        cell = column.slice(index, 1)
        try:
            cells.append(convert(cell))
        except MemoryError:
            raise
        except Exception as error:
            cells.append(None)
            bad.setdefault(index, Malformed(f"column {name!r}: {_reason(cell, error)}"))
    return cells


def _shown_cell(cell: Any) -> Any:
    try:
        return values(cell)[0]
    except MemoryError:
        raise
    except Exception:
        return _text(cell)


def check_structure(batch: Any) -> None:
    """Raises ArrowInvalid if buffers contradict each other: that is not the fault of single cells."""
    import pyarrow

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            if not any(fault in str(error) for fault in _FAULTS_OF_CELLS):
                raise


def _reason(cell: Any, error: Exception) -> str:
    import pyarrow

    if isinstance(error, Malformed):
        return str(error)
    if "Invalid UTF8" in str(error):
        try:
            values(cell)
        except UnicodeDecodeError as found:  # which knows the byte
            error = found
    if isinstance(error, UnicodeDecodeError):
        return f"the text is not UTF-8: byte {error.object[error.start]:#04x} at byte {error.start}"
    if pyarrow.types.is_timestamp(cell.type) and cell.type.tz and _zone(cell.type) is None:
        return f"the time zone {cell.type.tz!r} is unknown"
    if pyarrow.types.is_temporal(cell.type):
        return f"the {cell.type} {_text(cell)} is out of range"
    return f"a value of type {cell.type} can't be read: {error}"


def _text(cell: Any) -> str:
    """A cell as text, whatever it holds."""
    import pyarrow

    try:
        if pyarrow.types.is_string(cell.type) or pyarrow.types.is_large_string(cell.type):
            raw = cell.view(pyarrow.binary() if pyarrow.types.is_string(cell.type) else pyarrow.large_binary())
            return str(raw[0].as_py()[:_SHOWN_BYTES], errors="backslashreplace")
        if pyarrow.types.is_timestamp(cell.type):
            cell = cell.cast(pyarrow.timestamp(cell.type.unit))  # an unknown time zone can't be shown
        (text,) = cell.cast(pyarrow.string()).to_pylist()
        return str(text).removeprefix("<value out of range: ").removesuffix(">")
    except MemoryError:
        raise
    except Exception:
        return f"({cell.type})"


def _converter(kind: Any) -> Callable[[Any], list[Any]] | None:
    """How values of the type are made, if not by `to_pylist`."""
    from pyarrow import types

    if types.is_time(kind):
        return _times
    if types.is_timestamp(kind) and kind.unit == "ns":
        return _timestamps
    if types.is_duration(kind) and kind.unit == "ns":
        return _durations
    if not _has_own_way(kind):
        return None
    if types.is_struct(kind):
        return _structs
    if types.is_map(kind):
        return _maps
    if types.is_nested(kind) and not types.is_union(kind) and not types.is_run_end_encoded(kind):
        return _lists
    return _decoded


def _has_own_way(kind: Any) -> bool:
    """Whether anything in a value of this type is not as `to_pylist` gives it."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return True  # to_pylist believes an index below zero
    if types.is_run_end_encoded(kind):
        return _has_own_way(kind.value_type)
    if isinstance(kind, _extension()):
        return _has_own_way(kind.storage_type)
    if types.is_nested(kind):
        return any(_has_own_way(kind.field(number).type) for number in range(kind.num_fields))
    return bool(types.is_time(kind)) or ((types.is_timestamp(kind) or types.is_duration(kind)) and kind.unit == "ns")


def _extension() -> Any:
    import pyarrow

    return pyarrow.BaseExtensionType


def _timestamps(array: Any) -> list[Datetime | None]:
    """In nanoseconds: split into whole microseconds, which Python holds, and the rest."""
    import pyarrow

    moments = values(_whole_microseconds(array, pyarrow.timestamp("us", array.type.tz)))
    return [None if base is None else Datetime.of(base, n) for base, n in zip(moments, _rests(array), strict=True)]


def _durations(array: Any) -> list[Timedelta | None]:
    import pyarrow

    durations = _whole_microseconds(array, pyarrow.duration("us")).to_pylist()
    return [None if base is None else Timedelta.of(base, n) for base, n in zip(durations, _rests(array), strict=True)]


def _times(array: Any) -> list[Any]:
    """Raises OverflowError for a time that is not within a day."""
    import pyarrow
    from pyarrow import compute

    kind = array.type
    units = array.cast(pyarrow.int32() if kind.bit_width == 32 else pyarrow.int64())
    ends = compute.min_max(units).as_py()
    if ends["min"] is not None and not 0 <= ends["min"] <= ends["max"] < _PER_DAY[kind.unit]:
        raise OverflowError("a time must be within a day")
    if kind.unit != "ns":
        plain: list[Any] = array.to_pylist()
        return plain
    times = _whole_microseconds(array, pyarrow.time64("us")).to_pylist()
    return [None if base is None else Time.of(base, n) for base, n in zip(times, _rests(array), strict=True)]


def _whole_microseconds(array: Any, kind: Any) -> Any:
    """The array of nanoseconds, rounded down to a type of microseconds. (floor_temporal fails for the least ones.)"""
    import pyarrow
    from pyarrow import compute

    ticks = array.cast(pyarrow.int64())
    quotients = compute.divide(ticks, 1000)  # rounded towards zero
    is_less = compute.less(compute.subtract(ticks, compute.multiply(quotients, 1000)), 0)
    return compute.subtract(quotients, is_less.cast(pyarrow.int64())).view(kind)


def _rests(array: Any) -> list[int]:
    import pyarrow

    return [(value or 0) % 1000 for value in array.cast(pyarrow.int64()).to_pylist()]


def _structs(array: Any) -> list[dict[str, Any] | None]:
    names = [field.name for field in array.type]
    cells = zip(*map(values, array.flatten()), strict=True)
    valid = array.is_valid().to_pylist()
    return [dict(zip(names, row, strict=True)) if there else None for row, there in zip(cells, valid, strict=True)]


def _lists(array: Any) -> list[list[Any] | None]:
    from pyarrow import compute

    flat = iter(values(array.flatten()))
    lengths = compute.list_value_length(array).to_pylist()
    return [None if length is None else [next(flat) for _ in range(length)] for length in lengths]


def _maps(array: Any) -> list[list[tuple[Any, Any]] | None]:
    offsets = array.offsets.to_pylist()
    start, length = offsets[0], offsets[-1] - offsets[0]
    keys, items = (values(side.slice(start, length)) for side in (array.keys, array.items))
    pairs = list(zip(keys, items, strict=True))
    ranges, valid = pairwise(offsets), array.is_valid().to_pylist()
    return [pairs[a - start : b - start] if there else None for (a, b), there in zip(ranges, valid, strict=True)]


def _decoded(array: Any) -> list[Any]:
    """Dictionaries, runs, unions and extensions: their values are in another array."""
    import pyarrow
    from pyarrow import compute, types

    if types.is_dictionary(array.type):
        return values(array.dictionary.take(array.indices))
    if types.is_run_end_encoded(array.type):
        return values(compute.run_end_decode(array))
    if isinstance(array.type, pyarrow.BaseExtensionType):
        return values(array.storage)
    return [_member(scalar) for scalar in array]


def _member(scalar: Any) -> Any:
    """The value of a union."""
    import pyarrow

    return values(pyarrow.array([scalar.value]))[0] if scalar.is_valid else None


def _zone(kind: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.lib.string_to_tzinfo(kind.tz)
    except (pyarrow.ArrowException, LookupError, ValueError):
        return None
