"""Avro object container files, read by fastavro; only tasks with such input import it."""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.reader import Reader


def open_reader(path: Path, format: str, options: Mapping[str, Any]) -> Reader:
    return AvroRecords(path)


class AvroRecords:
    """Each datum is a record, as fastavro gives it: a dict, if the schema is a record's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def raws(self) -> Iterator[Any]:
        import fastavro

        if self.path.stat().st_size == 0:
            return
        try:
            with self.path.open("rb") as file:
                yield from fastavro.reader(file)
        except GeneratorExit:
            raise
        except OSError:
            raise
        except Exception as error:  # fastavro has no exception class of its own
            message = f"the Avro file can't be read: {type(error).__name__}: {error}"
            raise TaskError("input_invalid", message, retryable=False) from None

    def parse(self, raw: Any) -> Any:
        return copy.copy(raw)  # keeps a rejected record as it was

    def show(self, raw: Any) -> Any:
        return raw

    def offset(self, raw: Any) -> int | None:
        return None


STEPS: dict[str, Callable[..., None]] = {}
