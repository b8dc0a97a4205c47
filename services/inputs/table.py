"""Records written as a table, a Parquet file, in columns that are decided beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.contract.task_error import Malformed
from services.inputs.columns import Columns, Type, convert_field, decimal_digits, from_json, from_text
from services.inputs.names import named, unique_names
from services.inputs.observed import Observed, as_fields

BATCH_ROWS = 10_000

Reject = Callable[[int, int | None, Any, str], None]  # of the record's number and offset, the record shown, the reason


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a query reads: with `everything` all columns, otherwise only those among `names`, in lower case."""

    everything: bool
    names: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        return self.everything or name.casefold() in self.names


ALL = Wanted(True)


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the records, and the column that it becomes: SQL's names differ by more than case."""

    field: str
    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Layout:
    """Those of `every` column that a query wants. With `strict` a record may have no other field than these."""

    columns: tuple[Column, ...]
    every: tuple[Column, ...]
    strict: bool
    text: bool = False

    @classmethod
    def of(cls, columns: Columns, wanted: Wanted, *, text: bool = False) -> "Layout":
        names = unique_names(named(list(columns)))
        every = tuple(Column(field, name, kind) for (field, kind), name in zip(columns.items(), names, strict=True))
        chosen = tuple(column for column in every if wanted.has(column.name))
        return cls(chosen or every, every, wanted.everything, text)

    def schema(self) -> Any:
        """Of pyarrow."""
        import pyarrow

        return pyarrow.schema([(column.name, arrow_type(column.type)) for column in self.columns])

    def converter(self) -> Callable[[Any], list[Any]]:
        """Turns a record into the values of a row; raises Malformed, which names the column."""
        converts = [(column.field, _convert(column.type, self.text)) for column in self.columns]
        known = {column.field for column in self.every}

        def convert(record: Any) -> list[Any]:
            fields = as_fields(record)
            if self.strict and not fields.keys() <= known:
                raise _unknown_field(fields, known)
            return [convert_field(field, each, fields.get(field)) for field, each in converts]

        return convert


def _unknown_field(fields: Mapping[str, Any], known: set[str]) -> Malformed:
    name = next(name for name in fields if name not in known)
    return Malformed(f"has the field {name!r}, which none of the sampled records has: declare its type in `columns`")


def _convert(kind: Type, text: bool) -> Callable[[Any], Any]:
    if not text:
        return from_json(kind)
    convert = from_text(kind)
    return lambda value: None if value == "" else convert(value)


def arrow_type(kind: Type) -> Any:
    """The pyarrow type; JSON is text."""
    import pyarrow

    match kind:
        case [element]:
            return pyarrow.list_(arrow_type(element))
        case dict():
            return pyarrow.struct([(name, arrow_type(inner)) for name, inner in kind.items()])
        case "text" | "json":
            return pyarrow.string()
        case "bool":
            return pyarrow.bool_()
        case "int64":
            return pyarrow.int64()
        case "float64":
            return pyarrow.float64()
        case "date":
            return pyarrow.date32()
        case "timestamp":
            return pyarrow.timestamp("us")
    digits = decimal_digits(kind)
    assert digits is not None
    return pyarrow.decimal128(*digits)


class TableWriter:
    """A new Parquet file of the layout's columns, written batch by batch."""

    def __init__(self, target: Path, layout: Layout) -> None:
        import pyarrow.parquet

        self.schema = layout.schema()
        self._convert = layout.converter()
        self._rows: list[list[Any]] = []
        self._file = pyarrow.parquet.ParquetWriter(
            target, self.schema, compression="none", use_dictionary=False, write_statistics=False
        )

    def add(self, record: Any) -> None:
        """Raises Malformed."""
        self._rows.append(self._convert(record))
        if len(self._rows) == BATCH_ROWS:
            self.flush()

    def add_batch(self, batch: Any) -> None:
        self.flush()
        self._file.write_batch(batch)

    def flush(self) -> None:
        import pyarrow

        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                pyarrow.array(list(values), kind) for values, kind in zip(columns, self.schema.types, strict=True)
            ]
            self._rows = []
            self._file.write_batch(pyarrow.record_batch(arrays, schema=self.schema))

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._file.close()


def write_records(writer: TableWriter, reader: Any, names: Sequence[str] | None, reject: Reject) -> None:
    """Write all records of the reader; with `names`, a record may be a list of the columns' values."""
    for number, raw in enumerate(reader.raws(), start=1):
        try:
            writer.add(parse(reader, raw, names))
        except Malformed as error:
            reject(number, reader.offset(raw), reader.show(raw), str(error))


def parse(reader: Any, raw: Any, names: Sequence[str] | None) -> Any:
    """The record; of CSV without a header as fields. Raises Malformed."""
    record = reader.parse(raw)
    if names is None or isinstance(record, Mapping):
        return record
    if len(record) != len(names):
        raise Malformed(f"the row has {len(record)} fields, the first one has {len(names)}")
    return dict(zip(names, record, strict=True))


def observe(reader: Any, found: Observed) -> None:
    """Add what the reader's records hold; records that can't be read are left out."""
    for raw in reader.raws():
        try:
            record = reader.parse(raw)
        except Malformed:
            continue
        found.add_fields(as_fields(record))
