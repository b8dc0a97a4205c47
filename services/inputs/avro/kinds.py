"""The types of a record's fields in SQL, from the schema of an Avro file."""

from collections.abc import Mapping
from typing import Any

from services.inputs.avro.logical import logical_name

_DECIMAL_DIGITS_MAX = 38  # of DuckDB


def field_kinds(schema: Mapping[str, Any]) -> dict[str, Any]:
    """For each field of the record its pyarrow.DataType; None for one that becomes JSON text.

    That is a union of several types, a type within itself, a decimal of more than 38 digits, a duration, a record
    without fields.
    """
    named: dict[str, Any] = {}
    return {field["name"]: _kind(field["type"], named) for field in schema["fields"]}


def _kind(schema: Any, named: dict[str, Any]) -> Any:
    """`named` has the types that were defined so far; None for those that are not complete."""
    import pyarrow

    match schema:
        case str():
            return named[schema] if schema in named else _primitive(schema)
        case list():
            kinds = [_kind(branch, named) for branch in schema if branch != "null"]
            return kinds[0] if len(kinds) == 1 else None if kinds else pyarrow.null()
        case {"logicalType": str()} if (kind := _logical(schema)) is not _PLAIN:
            return kind
        case {"type": "array", "items": items}:
            return (inner := _kind(items, named)) and pyarrow.list_(inner)
        case {"type": "map", "values": inner}:
            return (kind := _kind(inner, named)) and pyarrow.map_(pyarrow.string(), kind)
        case {"type": "record" | "error" | "enum" | "fixed", "name": name}:
            named[name] = None
            named[name] = _named(schema, named)
            return named[name]
        case {"type": inner}:
            return _kind(inner, named)
    return None


def _named(schema: Mapping[str, Any], named: dict[str, Any]) -> Any:
    import pyarrow

    if schema["type"] == "enum":
        return pyarrow.string()
    if schema["type"] == "fixed":
        return pyarrow.binary(schema["size"])
    kinds = {field["name"]: _kind(field["type"], named) for field in schema["fields"]}
    return pyarrow.struct(list(kinds.items())) if kinds and all(kinds.values()) else None


def _primitive(name: str) -> Any:
    import pyarrow

    kinds = {
        "null": pyarrow.null(),
        "boolean": pyarrow.bool_(),
        "int": pyarrow.int32(),
        "long": pyarrow.int64(),
        "float": pyarrow.float32(),
        "double": pyarrow.float64(),
        "bytes": pyarrow.binary(),
        "string": pyarrow.string(),
    }
    return kinds.get(name)


_PLAIN = object()


def _logical(schema: Mapping[str, Any]) -> Any:
    """_PLAIN if the logical type is unknown: then the type below it counts."""
    import pyarrow

    match logical_name(schema):
        case "decimal":
            precision, scale = schema.get("precision", 0), schema.get("scale", 0)
            fits = 0 < precision <= _DECIMAL_DIGITS_MAX and 0 <= scale <= precision
            return pyarrow.decimal128(precision, scale) if fits else None
        case "duration":
            return None
        case "uuid":
            return pyarrow.uuid()
        case "date":
            return pyarrow.date32()
        case "time-millis" | "time-micros":
            return pyarrow.time64("us")
        case "timestamp-millis" | "timestamp-micros":
            return pyarrow.timestamp("us", "UTC")
        case "local-timestamp-millis" | "local-timestamp-micros":
            return pyarrow.timestamp("us")
        case "timestamp-nanos":
            return pyarrow.timestamp("ns", "UTC")
        case "local-timestamp-nanos":
            return pyarrow.timestamp("ns")
    return _PLAIN
