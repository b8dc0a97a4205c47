"""Names of outputs that differ from task to task: `{input.stem}.jpg` of the source `s3://photos/cat.png` is `cat.jpg`.

Objects of different tasks never meet: their keys have the task's index. But results that nothing merges are known by
their names, below the folders of their sources.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

from services.contract.source import TaskSource

FOLDER = "named"  # of an attempt's objects, so that none has the name of what the worker itself writes there
NAME_BYTES_MAX = 255  # of a file on Linux
_TAKEN = ("manifest.json", "rejects.jsonl")  # results that Piecework itself makes

_PLACEHOLDER = re.compile(r"\{(index|input\.(?:filename|stem|part))\}")
_CHARACTERS = re.compile(r"[A-Za-z0-9._-]{0,100}")
FIX = (
    "write letters, digits, '.', '_', '-' and {input.stem}, {input.filename}, {input.part} or {index}, at most 100 "
    "characters beside these"
)


class NoName(ValueError):
    """A task has no such name; the text says why, and what to do."""


def is_template(output: str) -> bool:
    return "{" in output


def check_template(output: str) -> str:
    """Raises ValueError with the fix."""
    if _CHARACTERS.fullmatch(_PLACEHOLDER.sub("", output)) is None:
        raise ValueError(FIX)
    return output


def uses_source(output: str) -> bool:
    return "{input." in output


def differs_by_index(output: str) -> bool:
    """Whether no two tasks have the same name."""
    return "{index}" in output


def has_suffix(output: str) -> bool:
    """Whether the template itself tells a suffix, or takes that of the source."""
    return "{input.filename}" in output or "." in _PLACEHOLDER.sub("", output)


def fill_template(output: str, source: TaskSource | None, index: int, suffix: str = "") -> str:
    """The name of one task's output; the `suffix` is added to it. Raises NoName."""
    if source is None and uses_source(output):
        raise NoName(f"the output is named {output}, but this task works on no file of the job's input: use {{index}}")
    known: dict[str, Any] = {"index": index}
    if source is not None:
        known |= {"input.filename": source.name, "input.stem": source.stem, "input.part": source.part or 0}
    stem = _PLACEHOLDER.sub(lambda match: str(known[match[1]]), output)
    name = stem + suffix
    if stem in ("", ".", "..") or name in _TAKEN or "\0" in name or len(name.encode()) > NAME_BYTES_MAX:
        of = source.uri if source else f"task {index}"
        raise NoName(f"the output is named {output}, but {name!r}, made of {of}, can't be the name of a result")
    return name


def folder_of(uri: str) -> str:
    """`bucket/folder/` of the object."""
    return uri.removeprefix("s3://").rpartition("/")[0] + "/"


def common_folder(inputs: Iterable[Mapping[str, Any]]) -> str:
    """The folder of all objects of these inputs of a job: `bucket/folder/`, or nothing if they may be anywhere."""
    named = [source.get("prefix") or source.get("uri") for source in inputs if source.get("type") != "manifest"]
    if not named or any(source.get("type") == "manifest" for source in inputs):
        return ""
    folders = [folder_of(uri).split("/")[:-1] for uri in named if uri]
    common = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    return "".join(f"{level[0]}/" for level in common)


def result_folders(source: TaskSource | None, common: str) -> str:
    """The folders of a result that is named after its source: those which that has under the `common` one."""
    if source is None:
        return ""
    folders = folder_of(source.uri).removeprefix(common).split("/")[:-1]
    return "".join(f"{_SAFE.get(folder, folder)}/" for folder in folders)


_SAFE = {"": "%2F", ".": "%2E", "..": "%2E%2E"}  # folders of keys that are none of a file system
