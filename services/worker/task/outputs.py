"""Uploads a task's results to S3, and describes them for the task's row."""

import itertools
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import IO, Any

import orjson

from services.contract.location import Location
from services.contract.task_error import TaskError
from services.contract.task_input import WholeObject
from services.contract.task_output import StoredObject, TaskOutput
from services.inputs.registry import compression_suffix, format_of
from services.inputs.text_ends import TextEnds, ends_of
from services.platform.threads import beside_loop, in_own_thread
from services.platform.transfer import OpenFile, for_each, upload, upload_bytes
from services.worker.task.user_files import Reading, UserFiles

_FILES_AT_ONCE = 8
_LEFT_SHOWN = 10
_READ_BYTES = 1 << 16
_ITEM_BYTES_MAX = 64 << 20


class Outputs:
    """Uploads the files of one attempt, which `files` opens; `bytes` is the number of bytes uploaded.

    Raises TaskError (output_invalid), not retryable, for what is not a regular file, and what `upload` raises.
    """

    def __init__(self, s3: Any, files: UserFiles, locate: Callable[[str], Location]) -> None:
        self.bytes = 0
        self._s3 = s3
        self._files = files
        self._locate = locate

    async def put_output(
        self, path: Path, header_bytes: int | None, *, lines: bool = True, name: str | None = None
    ) -> StoredObject | None:
        """Upload the task's output, if it exists, by default under its own name.

        Its header has `header_bytes` bytes; None: it is the first line. Without `lines`, no line end belongs behind it,
        even if it is text.
        """
        file = await beside_loop(self._files.open, path)
        if file is None:
            return None
        with file:
            stored = await self._put(file, name or path.name)
            if ends := await in_own_thread(_ends, file, path.name) if lines else TextEnds():
                stored = replace(stored, mark=ends.mark, missing_end=ends.missing_end)
            if _has_header(stored, header_bytes):
                stored = _with_header(stored, await in_own_thread(_header, Reading(file), header_bytes))
            return stored

    async def put_bytes(self, body: bytes, name: str, header_bytes: int | None) -> StoredObject:
        """Likewise, of an output that is here already, and small."""
        stored = await upload_bytes(self._s3, body, self._locate(name))
        self.bytes += stored.bytes
        if ends := ends_of(BufferedReader(BytesIO(body)), name):
            stored = replace(stored, mark=ends.mark, missing_end=ends.missing_end)
        if _has_header(stored, header_bytes):
            stored = _with_header(stored, _header(BytesIO(body), header_bytes))
        return stored

    async def put_further(self, outputs: Mapping[str, Path]) -> dict[str, StoredObject]:
        """Upload the further outputs that exist, by name; the first line of a CSV or TSV is its header."""
        stored = {
            name: await self.put_output(path, None if _is_csv(path.name) else 0) for name, path in outputs.items()
        }
        return {name: object_ for name, object_ in stored.items() if object_}

    async def put_items(self, listing: Path, count: int, *, by_worker: bool) -> TaskOutput:
        """Upload the listing of a fan-out stage's items; one that the worker has not written itself is checked."""
        file = await beside_loop(self._files.open, listing)
        if file is None:
            raise _wrong_listing("is gone")
        with file:
            if not by_worker:
                await in_own_thread(_check_listing, BufferedReader(Reading(file)), count)
            return TaskOutput(await self._put(file, listing.name), items=count)

    async def put_directory(self, directory: Path, listing: str, scratch: Path) -> TaskOutput:
        """Upload each file of the directory, in order of name, and the listing that makes each one an item.

        The listing is made in `scratch` without a name: under its own, the task may have put a link.
        """
        paths = await in_own_thread(self._sorted, directory)
        put: list[StoredObject | None] = [None] * len(paths)

        async def put_one(numbered: tuple[int, Path]) -> None:
            number, path = numbered
            put[number] = await self.put(path, path.relative_to(directory.parent).as_posix())

        await for_each(enumerate(paths), _FILES_AT_ONCE, put_one)
        stored = [each for each in put if each]
        with tempfile.TemporaryFile(dir=scratch) as file:
            await beside_loop(_write_listing, file, stored)
            return TaskOutput(await self._put(file, listing), items=len(stored))

    async def put(self, path: Path, name: str | None = None) -> StoredObject | None:
        """Upload a file, by default under its own name; None if it does not exist."""
        file = await beside_loop(self._files.open, path)
        if file is None:
            return None
        with file:
            return await self._put(file, name or path.name)

    async def _put(self, file: OpenFile, name: str) -> StoredObject:
        stored = await upload(self._s3, file, self._locate(name))
        self.bytes += stored.bytes
        return stored

    def _sorted(self, directory: Path) -> list[Path]:
        """Raises TaskError (output_invalid) for names that S3 does not allow."""
        paths = sorted(self._files.find(directory))
        for path in paths:
            name = path.relative_to(directory.parent).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError:
                raise TaskError("output_invalid", f"the file name {name!a} is not UTF-8", retryable=False) from None
        return paths


def _as_input(stored: StoredObject) -> WholeObject:
    return WholeObject(stored.location, bytes=stored.bytes, crc32=stored.crc32)


def _write_listing(file: IO[bytes], stored: Iterable[StoredObject]) -> None:
    file.writelines(orjson.dumps(_as_input(each).to_json()) + b"\n" for each in stored)
    file.flush()


def _check_listing(file: BufferedReader, count: int) -> None:
    """Raises TaskError (output_invalid) unless it lists `count` items, one a line, and nothing else.

    User code shares the process that writes it: another kind of task input would be read with the worker's rights.
    """
    found = 0
    while line := file.readline(_ITEM_BYTES_MAX + 1):
        found += 1
        if len(line) > _ITEM_BYTES_MAX:
            raise _wrong_listing(f"has an item of more than {_ITEM_BYTES_MAX} bytes")
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _wrong_listing(f"is not JSON in line {found}: {error}") from None
        if not isinstance(item, dict) or item.keys() != {"type", "value"} or item["type"] != "item":
            raise _wrong_listing(f"has something else than an item in line {found}")
    if found != count:
        raise _wrong_listing(f"has {found} items, the task said {count}")


def _wrong_listing(what: str) -> TaskError:
    return TaskError("output_invalid", f"the listing of the task's items {what}", retryable=False)


def missing_output(files: UserFiles, output: Path, work: Path, *, in_directory: bool) -> TaskError:
    """The error of a task that has not written its output, with the files that it left there or in its directory."""
    found = itertools.islice(itertools.chain(files.find(work), files.find(output.parent)), _LEFT_SHOWN + 1)
    left = [os.path.relpath(path, work) for path in found]
    names = ", ".join(sorted(left[:_LEFT_SHOWN])) + (", …" if len(left) > _LEFT_SHOWN else "")
    wrote = "no file to its output directory" if in_directory else "nothing to its output"
    seen = f"it left these files: {names}" if left else "it left no files in its working directory"
    return TaskError("output_missing", f"the processor wrote {wrote} {output.name!r}, the path in {{output}}; {seen}")


def _is_csv(name: str) -> bool:
    found = format_of(name)
    return found is not None and found.name in ("csv", "tsv") and not compression_suffix(name)


def _ends(file: FileIO, name: str) -> TextEnds | None:
    return ends_of(BufferedReader(Reading(file)), name)


def _has_header(stored: StoredObject, size: int | None) -> bool:
    return size != 0 and not TextEnds(stored.mark).is_wide  # whose first line does not end with one byte


def _with_header(stored: StoredObject, header: tuple[int, int]) -> StoredObject:
    return replace(stored, header_bytes=header[0], header_crc32=header[1])


def _header(file: Reading | BytesIO, size: int | None) -> tuple[int, int]:
    """The length and the CRC-32 of the first `size` bytes or, if that is None, of the first line, however long."""
    length, crc32 = 0, 0
    while piece := file.read(_READ_BYTES if size is None else min(_READ_BYTES, size - length)):
        end = piece.find(b"\n") + 1 if size is None else 0
        piece = piece[:end] if end else piece
        length, crc32 = length + len(piece), zlib.crc32(piece, crc32)
        if end:
            break
    return length, crc32
