"""The records of files, read by the modules of their formats (services/inputs)."""

from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.reader import Reader
from services.inputs.registry import COMPRESSION_OF_SUFFIX, FOLDERS, FORMATS, format_of, load

_MODULES = {folder: load(folder, "read") for folder in FOLDERS}  # now: later, the child can't import ours


def read_module(format: str) -> Any:
    """The `read` module of the format. Raises TaskError (input_invalid) if there is no such format."""
    if format not in FORMATS:
        raise TaskError("input_invalid", f"there is no record format {format!r}", retryable=False)
    return _MODULES[FORMATS[format].folder]


def detect_format(path: Path) -> str:
    """The record format, by the file's name. Raises TaskError (input_invalid)."""
    if found := format_of(path.name):
        return found.name
    known = ", ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
    raise TaskError(
        "input_invalid",
        f"can't tell the record format of {path.name!r}: its name must end in one of {known} "
        f"(those of text may be followed by {', '.join(COMPRESSION_OF_SUFFIX)})",
        retryable=False,
    )


def open_reader(path: Path, format: str | None = None, **options: Any) -> Reader:
    """A reader of the file in the named format, by default the one of its name. Raises TaskError (input_invalid).

    `options` are keyword arguments of the format's own `open_reader`.
    """
    name = format or detect_format(path)
    reader: Reader = read_module(name).open_reader(path, name, options)
    return reader
