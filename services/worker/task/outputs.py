"""Uploads a task's results to S3, and describes them for the task's row."""

import asyncio
import itertools
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import WholeObject
from services.contract.task_output import StoredObject, TaskOutput
from services.inputs.registry import compression_suffix, format_of
from services.inputs.text_ends import TextEnds, file_ends
from services.platform.transfer import for_each, upload

_FILES_AT_ONCE = 8
_LEFT_SHOWN = 10


class Outputs:
    """Uploads the files of one attempt; `bytes` is the number of bytes uploaded."""

    def __init__(self, s3: Any, locate: Callable[[str], Location]) -> None:
        self.bytes = 0
        self._s3 = s3
        self._locate = locate

    async def put_output(self, path: Path, header_bytes: int | None, *, lines: bool = True) -> StoredObject | None:
        """Upload the task's output, if it exists. Its header has `header_bytes` bytes; None: it is the first line.

        Without `lines`, no line end belongs behind it, even if it is text.
        """
        if not _is_file(path):
            return None
        stored = await self.put(path)
        ends = await asyncio.to_thread(file_ends, path) if lines else TextEnds()
        return _with_header(_with_ends(stored, ends), path, header_bytes)

    async def put_further(self, outputs: Mapping[str, Path]) -> dict[str, StoredObject]:
        """Upload the further outputs that exist, by name; the first line of a CSV or TSV is its header."""
        files: dict[str, StoredObject] = {}
        for name, path in outputs.items():
            if _is_file(path):
                stored = _with_ends(await self.put(path), await asyncio.to_thread(file_ends, path))
                files[name] = _with_header(stored, path, None if _is_csv(path.name) else 0)
        return files

    async def put_items(self, listing: Path, count: int) -> TaskOutput:
        """Upload the listing of a fan-out stage's items."""
        return TaskOutput(await self.put(listing), items=count)

    async def put_directory(self, directory: Path, listing: Path) -> TaskOutput:
        """Upload each file of the directory, in order of name, and the listing that makes each one an item."""
        paths = await asyncio.to_thread(_files_in, directory)
        stored: list[StoredObject | None] = [None] * len(paths)

        async def put(numbered: tuple[int, Path]) -> None:
            number, path = numbered
            stored[number] = await self.put(path, path.relative_to(directory.parent).as_posix())

        await for_each(enumerate(paths), _FILES_AT_ONCE, put)
        with listing.open("wb") as file:
            file.writelines(orjson.dumps(_as_input(each).to_json()) + b"\n" for each in stored if each)
        return await self.put_items(listing, len(paths))

    async def put(self, path: Path, name: str | None = None) -> StoredObject:
        """Upload a file, by default under its own name."""
        stored = await upload(self._s3, path, self._locate(name or path.name))
        self.bytes += stored.bytes
        return stored


def _as_input(stored: StoredObject) -> WholeObject:
    return WholeObject(stored.location, bytes=stored.bytes, crc32=stored.crc32)


def missing_output(output: Path, directory: Path) -> TaskError:
    """The error of a task that has not written its output, with the files that it left there or in its directory."""
    found = (path for place in (directory, output.parent) for path in place.rglob("*") if not path.is_dir())
    left = [os.path.relpath(path, directory) for path in itertools.islice(found, _LEFT_SHOWN + 1)]
    names = ", ".join(sorted(left[:_LEFT_SHOWN])) + (", …" if len(left) > _LEFT_SHOWN else "")
    wrote = "no file to its output directory" if output.is_dir() else "nothing to its output"
    seen = f"it left these files: {names}" if left else "it left no files in its working directory"
    return TaskError("output_missing", f"the processor wrote {wrote} {output.name!r}, the path in {{output}}; {seen}")


def _files_in(directory: Path) -> list[Path]:
    """Raises TaskError (output_invalid) for anything but a file, and for names that S3 does not allow."""
    files = []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory.parent).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            raise TaskError("output_invalid", f"the file name {name!a} is not UTF-8", retryable=False) from None
        if not path.is_dir() and _is_file(path):
            files.append(path)
    return files


def _is_file(path: Path) -> bool:
    """False if nothing exists there. Raises TaskError (output_invalid) if it exists but is not a file."""
    if path.is_file():
        return True
    if path.exists() or path.is_symlink():
        raise TaskError("output_invalid", f"the output {path.name!r} is not a regular file", retryable=False)
    return False


def _is_csv(name: str) -> bool:
    found = format_of(name)
    return found is not None and found.name in ("csv", "tsv") and not compression_suffix(name)


def _with_ends(stored: StoredObject, ends: TextEnds | None) -> StoredObject:
    return stored if ends is None else replace(stored, mark=ends.mark, missing_end=ends.missing_end)


def _with_header(stored: StoredObject, path: Path, size: int | None) -> StoredObject:
    if size == 0 or TextEnds(stored.mark).is_wide:  # whose first line does not end with one byte
        return stored
    with path.open("rb") as file:
        header = file.readline() if size is None else file.read(size)
    return replace(stored, header_bytes=len(header), header_crc32=zlib.crc32(header))
