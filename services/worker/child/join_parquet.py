"""Parquet files joined into one, for the merge `parquet`: columns by name, each with a type that holds all its values.

Types are joined as pyarrow.unify_schemas does (`permissive`), and values are cast only if they stay what they are.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.arrow_names import names_in
from services.inputs.parquet.read import open_parquet
from services.inputs.reader import holds_nothing
from services.worker.child.readers import detect_format

_GROUP_ROWS = 1_000_000
_GROUP_BYTES = 128 << 20
_DIGITS_OF_INTEGERS = 20  # of 64 bits


def parquet_files(input: Path) -> list[Path] | None:
    """The files of the directory that are not empty, in order; None if there are others than Parquet."""
    files = [path for path in sorted(input.iterdir()) if not holds_nothing(path)]
    return files if all(detect_format(path) == "parquet" for path in files) else None


def join_parquet(files: Sequence[Path], output: Path) -> dict[str, int]:
    """Write the rows of all files; returns how many were read and written. Without a file there is no output.

    Raises TaskError (input_invalid): two types of a column have none in common, or a value does not fit that one.
    """
    import pyarrow
    import pyarrow.parquet

    rows = 0
    if files:
        schema = _common_schema(files)
        with pyarrow.parquet.ParquetWriter(output, schema) as writer:
            for group in _groups(_batches(files, schema)):
                writer.write_table(pyarrow.Table.from_batches(group, schema), row_group_size=_GROUP_ROWS)
                rows += sum(batch.num_rows for batch in group)
    return {"records_in": rows, "records_out": rows}


def _groups(batches: Iterator[Any]) -> Iterator[list[Any]]:
    """Batches that are a row group together."""
    group, rows, size = list[Any](), 0, 0
    for batch in batches:
        if group and rows + batch.num_rows > _GROUP_ROWS:
            yield group
            group, rows, size = [], 0, 0
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if size >= _GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


def _batches(files: Sequence[Path], schema: Any) -> Iterator[Any]:
    import pyarrow

    for path in files:
        with open_parquet(path) as file:
            for batch in file.iter_batches():
                columns = [_column(batch, path, field) for field in schema]
                yield pyarrow.RecordBatch.from_arrays(columns, schema=schema)


def _column(batch: Any, path: Path, field: Any) -> Any:
    """The batch's column as the field's type; nulls if it has none of that name."""
    import pyarrow

    position = batch.schema.get_field_index(field.name)
    if position < 0:
        return pyarrow.nulls(batch.num_rows, field.type)
    column = batch.column(position)
    try:
        return column if column.type.equals(field.type) else column.cast(field.type)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise _unlike(field.name, f"{column.type} in {path}, {field.type} would hold the others: {error}") from None


def _common_schema(files: Sequence[Path]) -> Any:
    import pyarrow

    schemas = [_schema(path) for path in files]
    names = list(dict.fromkeys(name for schema in schemas for name in schema.names))
    return pyarrow.schema([(name, _common_type(name, files, schemas)) for name in names])


def _schema(path: Path) -> Any:
    with open_parquet(path) as file:
        names_in("Parquet", file.schema_arrow)
        return file.schema_arrow.remove_metadata()


def _common_type(name: str, files: Sequence[Path], schemas: Sequence[Any]) -> Any:
    """The type for the column in all files that have it. Where it is nothing but nulls, its type does not count."""
    having = [(schema, path) for schema, path in zip(schemas, files, strict=True) if name in schema.names]
    found = [(schema.field(name).type, path) for schema, path in having]
    if len({kind for kind, _ in found}) == 1:
        return found[0][0]
    try:
        return _unify(name, found)
    except TaskError:
        return _unify(name, [(kind, path) for kind, path in found if not _is_null(path, name)])


def _unify(name: str, found: Sequence[tuple[Any, Path]]) -> Any:
    """Raises TaskError, which names the first two types that have none in common."""
    import pyarrow

    first = dict(reversed(found))  # the first file with each type
    common, before = pyarrow.null(), Path()
    for kind, path in reversed(first.items()):
        try:
            schemas = [pyarrow.schema([(name, _plain(one))]) for one in (common, kind)]
            joined = pyarrow.unify_schemas(schemas, promote_options="permissive").field(name).type
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            joined = None
        if joined is None or _rounds(common, joined) or _rounds(kind, joined):
            raise _unlike(name, f"{common} in {before}, {kind} in {path}")
        common, before = joined, path
    return _widest(common) if len(first) > 1 else common


def _plain(kind: Any) -> Any:
    """Moments are the same in every time zone, and words are with a dictionary or without."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(kind):
        return kind.value_type
    return pyarrow.timestamp(kind.unit, "UTC") if types.is_timestamp(kind) and kind.tz else kind


def _widest(kind: Any) -> Any:
    """Decimals of that scale with room for every integer: pyarrow counts too few digits."""
    import pyarrow

    if not pyarrow.types.is_decimal(kind):
        return kind
    digits = max(kind.precision, kind.scale + _DIGITS_OF_INTEGERS)
    return pyarrow.decimal128(38, kind.scale) if digits <= 38 else pyarrow.decimal256(76, kind.scale)


def _rounds(kind: Any, joined: Any) -> bool:
    """Whether a decimal would become a floating-point number, at any depth."""
    from pyarrow import types

    if types.is_decimal(kind):
        return bool(types.is_floating(joined))
    if types.is_struct(kind) and types.is_struct(joined):
        return any(_rounds(field.type, joined.field(field.name).type) for field in kind)
    if types.is_nested(kind) and kind.num_fields == joined.num_fields:
        return any(_rounds(kind.field(n).type, joined.field(n).type) for n in range(kind.num_fields))
    return False


def _is_null(path: Path, name: str) -> bool:
    """Whether the footer says that the column is nothing but nulls."""
    with open_parquet(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
        own = [column for column in columns if column.path_in_schema.partition(".")[0] == name]
        return all(
            column.is_stats_set
            and column.statistics.has_null_count
            and column.statistics.null_count == column.num_values
            for column in own
        )


def _unlike(name: str, why: str) -> TaskError:
    message = f"the parts do not fit into one Parquet file: column {name!r} is of type {why}"
    return TaskError("input_invalid", message, retryable=False)
