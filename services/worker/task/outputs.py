"""What a task has made, put to S3, and what its row will say of it."""

import asyncio
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
from services.platform.transfer import for_each, upload

_FILES_AT_ONCE = 8


class Outputs:
    """Puts the files of one attempt; `bytes` is how many it has put."""

    def __init__(self, s3: Any, locate: Callable[[str], Location]) -> None:
        self.bytes = 0
        self._s3 = s3
        self._locate = locate

    async def put_output(self, path: Path, header_bytes: int | None) -> StoredObject | None:
        """The task's output; `header_bytes` of it are a header, None: its first line is. None if it is not there."""
        if not _is_file(path):
            return None
        return _with_header(await self.put(path), path, header_bytes)

    async def put_further(self, outputs: Mapping[str, Path]) -> dict[str, StoredObject]:
        """The further outputs that are there, by name; a CSV's or TSV's first line is its header."""
        files: dict[str, StoredObject] = {}
        for name, path in outputs.items():
            if _is_file(path):
                files[name] = _with_header(await self.put(path), path, None if _is_csv(path.name) else 0)
        return files

    async def put_items(self, listing: Path, count: int) -> TaskOutput:
        """The listing of a fan-out stage's items."""
        return TaskOutput(await self.put(listing), items=count)

    async def put_directory(self, directory: Path, listing: Path) -> TaskOutput:
        """Each file of the directory, in the order of their names, and the listing that makes each an item."""
        paths = await asyncio.to_thread(_files_in, directory)
        stored: list[StoredObject | None] = [None] * len(paths)

        async def put(numbered: tuple[int, Path]) -> None:
            number, path = numbered
            stored[number] = await self.put(path, path.relative_to(directory.parent).as_posix())

        await for_each(enumerate(paths), _FILES_AT_ONCE, put)
        with listing.open("wb") as file:
            file.writelines(orjson.dumps(WholeObject(each.location).to_json()) + b"\n" for each in stored if each)
        return await self.put_items(listing, len(paths))

    async def put(self, path: Path, name: str | None = None) -> StoredObject:
        """A file, under its own name unless told another."""
        stored = await upload(self._s3, path, self._locate(name or path.name))
        self.bytes += stored.bytes
        return stored


def _files_in(directory: Path) -> list[Path]:
    """Raises TaskError (output_invalid) for other things than files, and names that S3 can't have."""
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
    """False if there is nothing; raises TaskError (output_invalid) if it is something else."""
    if path.is_file():
        return True
    if path.exists() or path.is_symlink():
        raise TaskError("output_invalid", f"the output {path.name!r} is no regular file", retryable=False)
    return False


def _is_csv(name: str) -> bool:
    found = format_of(name)
    return found is not None and found.name in ("csv", "tsv") and not compression_suffix(name)


def _with_header(stored: StoredObject, path: Path, size: int | None) -> StoredObject:
    if size == 0:
        return stored
    with path.open("rb") as file:
        header = file.readline() if size is None else file.read(size)
    return replace(stored, header_bytes=len(header), header_crc32=zlib.crc32(header))
