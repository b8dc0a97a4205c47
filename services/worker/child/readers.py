"""The records of files, read by the modules of their formats (services/inputs)."""

from pathlib import Path
from typing import Any

from services.contract.task_error import TaskError
from services.inputs.lines.files import open_file, reading
from services.inputs.magic import HEAD_BYTES, Content, recognise
from services.inputs.reader import Reader
from services.inputs.registry import (
    COMPRESSION_OF_SUFFIX,
    FOLDERS,
    FORMATS,
    UNREAD_COMPRESSIONS,
    Format,
    format_of,
    load,
)

_MODULES = {folder: load(folder, "read") for folder in FOLDERS}  # now: later, the child can't import ours


def read_module(format: str) -> Any:
    """The `read` module of the format. Raises TaskError (input_invalid) if there is no such format."""
    if format not in FORMATS:
        raise TaskError("input_invalid", f"there is no record format {format!r}", retryable=False)
    return _MODULES[FORMATS[format].folder]


def detect_format(path: Path) -> str:
    """The record format of a whole object: by its first bytes if they tell it, otherwise by its name.

    Raises TaskError (input_invalid), also if the bytes tell that it is something else.
    """
    named = format_of(path.name)
    with path.open("rb") as file:
        found = recognise(file.read(HEAD_BYTES))
    if found is not None and found.format is not None:
        return found.format
    if named is None:
        raise _invalid(_unknown(path, found))
    if named.folder == "lines":
        _check_text(path, named)
    elif found is not None:
        raise _invalid(found.instead_of(named.name))
    return named.name


def _check_text(path: Path, named: Format) -> None:
    with reading(open_file(path)) as file:
        found = recognise(file.read(HEAD_BYTES))
    if found is not None:
        raise _invalid(found.instead_of(named.name))


def _unknown(path: Path, found: Content | None) -> str:
    known = ", ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
    message = (
        f"can't tell the record format of {path.name!r}: its name must end in one of {known} "
        f"(those of text may be followed by {', '.join(COMPRESSION_OF_SUFFIX)})"
    )
    if found is not None and found.compression is None:
        return f"{message}. It begins like {found.name}: {found.fix}"
    if unread := UNREAD_COMPRESSIONS.get(path.suffix.lower()):
        return f"{message}. {unread} is not read: compress it as gzip or zstd"
    return f"{message}. If it is not data, `exclude` it"


def _invalid(message: str) -> TaskError:
    return TaskError("input_invalid", message, retryable=False)


def open_reader(path: Path, format: str | None = None, **options: Any) -> Reader:
    """A reader of the file in the named format, by default the one of its name. Raises TaskError (input_invalid).

    `options` are keyword arguments of the format's own `open_reader`.
    """
    name = format or detect_format(path)
    reader: Reader = read_module(name).open_reader(path, name, options)
    return reader
