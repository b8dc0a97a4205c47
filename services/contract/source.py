"""The source of a task: the object of the job's input that it works on, also in later stages.

It is in `tasks.input`: the object that the input itself names, or `source` in what later stages work on. Planning
numbers the parts of one object: `part`. The function source_of of the schema (migration 0039) says the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

Json = dict[str, Any]

_WHOLE = ("object", "object_version")
_NO_OBJECT = ("outputs", "item", "index", "array_index")
ADDED = ("source", "part")  # what planning adds to the inputs that a splitter or a task has made


@dataclass(frozen=True, slots=True)
class TaskSource:
    """The object at `uri` or, if it is one of several `objects`, the first of them; `part`: which part of it, from 0.

    What a fan-out makes of one object counts as its parts, too.
    """

    uri: str
    part: int | None = None
    objects: int | None = None

    @classmethod
    def of(cls, input: Any) -> "TaskSource | None":
        """That of a value of `tasks.input`; None if it is of no object. Never raises."""
        if not isinstance(input, dict):
            return None
        match input:
            case {"source": {"uri": str(uri)} as own}:
                return cls(uri, own.get("part", input.get("part")), own.get("objects"))
            case {"type": kind} if kind in _NO_OBJECT or "crc32" in input:  # which a task has made
                return None
            case {"uri": str(uri)}:
                return cls(uri, input.get("part"))
            case {"objects": [{"uri": str(uri)}, *others]}:
                return cls(uri, objects=1 + len(others))
            case {"type": "split", "input": {"uri": str(uri)} | {"prefix": str(uri)}}:
                return cls(uri)
        return None

    @property
    def key(self) -> str:
        """The key of the object in its bucket."""
        return self.uri.partition("://")[2].partition("/")[2]

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    def to_json(self) -> Json:
        known = {"uri": self.uri, "part": self.part, "objects": self.objects}
        return {name: value for name, value in known.items() if value is not None}

    def __str__(self) -> str:
        """`s3://bucket/key`, `s3://bucket/key part 3`, `s3://bucket/key and 4 more`."""
        part = "" if self.part is None else f" part {self.part}"
        return f"{self.uri}{part}" + (f" and {self.objects - 1} more" if self.objects and self.objects > 1 else "")


def with_source(made: Json, source: TaskSource | None) -> Json:
    """The input that a task has made of its own input's source."""
    return made if source is None else made | {"source": source.to_json()}


def number_parts(inputs: Iterable[Json], before: Any) -> list[Json]:
    """The inputs with the number of each part of an object; `before` is the input of the task before the first.

    Whole objects have none.
    """
    numbered = []
    last = TaskSource.of(before) if before and _is_part(before) else None
    for input in inputs:
        if not _is_part(input) or (source := TaskSource.of(input)) is None:
            numbered.append(input)
            last = None
            continue
        part = last.part + 1 if last and last.part is not None and last.uri == source.uri else 0
        own = "source" in input and "byte" not in input["source"]
        numbered.append(input | ({"source": input["source"] | {"part": part}} if own else {"part": part}))
        last = TaskSource(source.uri, part)
    return numbered


def _is_part(input: Json) -> bool:
    return "source" in input or not ("objects" in input or input.get("type") in (*_WHOLE, *_NO_OBJECT, "split"))
