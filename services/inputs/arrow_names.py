"""The names of the columns of a pyarrow schema."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.chunk import SplitError
from services.inputs.names import named


def column_names(schema: Any) -> list[str]:
    """The columns' names in records. Raises ValueError for a name given twice, also within a struct."""
    for field in schema:
        _check_fields(field.type, [field.name])
    return named(schema.names)


def names_in(format: str, schema: Any) -> list[str]:
    """The same for a file of that format. Raises TaskError (input_invalid)."""
    try:
        return column_names(schema)
    except ValueError as error:
        raise TaskError("input_invalid", f"the {format} file {error}: rename one of them", retryable=False) from None


def check_names_at(uri: str, schema: Any) -> None:
    """Raises SplitError for an object with such a schema."""
    try:
        column_names(schema)
    except ValueError as error:
        raise SplitError(f"{uri} {error}: rename one of them") from None


def _check_fields(kind: Any, path: Sequence[str]) -> None:
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        _check_fields(kind.value_type, path)
    elif types.is_nested(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        times = Counter(field.name for field in fields)
        if types.is_struct(kind) and len(times) < len(fields):
            twice = next(name for name in times if times[name] > 1)
            raise ValueError(f"names the field {twice!r} of {'.'.join(path)!r} twice")
        for field in fields:
            _check_fields(field.type, [*path, field.name] if types.is_struct(kind) else path)
