"""The types of columns, found from the JSON values of records: the narrowest type that holds all of them exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from services.inputs.columns import DEPTH_MAX, DIGITS_MAX, Columns, Type

VALUE_COLUMN = "json"  # of records that are not objects
_FIELDS_MAX = 200  # of an object with a type of its own; one with more is a table by itself
_SPARSE = 8  # an object with less than one in eight of its fields, at the mean, is such a table, too
_FLOAT_INTEGER_MAX = 1 << 53


def as_fields(record: Any) -> Mapping[str, Any]:
    """A record as columns: its fields; a record that is not an object is the column `json`."""
    return record if isinstance(record, dict) else {VALUE_COLUMN: record}


@dataclass(slots=True)
class Observed:
    """The values of a column, or of a field or element within one, seen so far."""

    depth: int = 0  # of the type that it is within
    kinds: set[str] = field(default_factory=set)  # bool, int, float, decimal, text, list, object
    integer_digits: int = 0  # of numbers, before the point
    fraction_digits: int = 0  # and after it
    integer_max: int = 0
    elements: "Observed | None" = None
    fields: "dict[str, Observed]" = field(default_factory=dict)
    objects: int = 0
    values: int = 0  # of the fields of all objects

    def add(self, value: Any) -> None:
        match value:
            case None:
                pass
            case bool():
                self.kinds.add("bool")
            case str():
                self.kinds.add("text")
            case int() | float() | Decimal():
                self._add_number(value)
            case list() | dict() if self.depth == DEPTH_MAX:
                self.kinds |= {"list", "object"}  # no type of its own
            case list():
                self.kinds.add("list")
                self.elements = self.elements or Observed(self.depth + 1)
                for each in value:
                    self.elements.add(each)
            case dict():
                self.kinds.add("object")
                self.objects += 1
                self.values += len(value)
                self.add_fields(value)

    def add_fields(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            found = self.fields.get(name)
            if found is None:
                if len(self.fields) > _FIELDS_MAX and self.objects:
                    continue  # no type of its own
                found = self.fields[name] = Observed(self.depth + 1)
            found.add(value)

    def _add_number(self, value: int | float | Decimal) -> None:
        if isinstance(value, int):
            self.kinds.add("int")
            self.integer_max = max(self.integer_max, abs(value) - (value < 0))
            self.integer_digits = max(self.integer_digits, _digits(value))
            return
        self.kinds.add("float" if isinstance(value, float) else "decimal")
        _, digits, exponent = Decimal(repr(value) if isinstance(value, float) else value).as_tuple()
        assert isinstance(exponent, int)
        self.integer_digits = max(self.integer_digits, len(digits) + exponent)
        self.fraction_digits = max(self.fraction_digits, -exponent)

    def type(self) -> Type:
        """`json` if nothing else holds all the values, and if there were none."""
        if not self.kinds or (self.kinds & {"list", "object"} and len(self.kinds) > 1):
            return "json"
        if self.kinds == {"list"}:
            assert self.elements is not None
            return [self.elements.type()]
        if self.kinds == {"object"}:
            return self._object_type()
        if self.kinds == {"bool"}:
            return "bool"
        return self._number_type() if self.kinds <= {"int", "float", "decimal"} else "text"

    def _number_type(self) -> Type:
        if self.kinds == {"int"} and self.integer_max < 1 << 63:
            return "int64"
        if "decimal" not in self.kinds and "float" in self.kinds and self.integer_max <= _FLOAT_INTEGER_MAX:
            return "float64"
        if self.integer_digits + self.fraction_digits > DIGITS_MAX:
            return "text"
        return f"decimal({DIGITS_MAX},{self.fraction_digits})"

    def _object_type(self) -> Type:
        """`json`, too, for an object whose fields vary so much that they are data, or are not names to SQL."""
        folded = {name.casefold() for name in self.fields}
        if not self.fields or len(folded) < len(self.fields) or "" in folded or len(self.fields) > _FIELDS_MAX:
            return "json"
        if self.values * _SPARSE < len(self.fields) * self.objects:
            return "json"
        return {name: found.type() for name, found in self.fields.items()}

    def columns(self) -> Columns:
        """The types of what `add_fields` has seen."""
        return {name: found.type() for name, found in self.fields.items()}


def _digits(value: int) -> int:
    bits = value.bit_length()
    return len(str(abs(value))) if bits < 200 else bits // 3  # only whether there are too many of them counts
