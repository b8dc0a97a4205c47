"""A local file as long as an object, which holds only the bytes that a reader will look at."""

from pathlib import Path
from typing import Any, Self

from services.contract.location import Location
from services.contract.task_input import NumberedBlocks
from services.inputs.fetched import FetchedInput
from services.inputs.footer import TAIL_BYTES, FooterBytes
from services.platform.transfer import download, object_bytes


class SparseCopy:
    """`read` is the number of bytes fetched so far."""

    def __init__(self, s3: Any, source: Location, etag: str | None, path: Path, size: int) -> None:
        self.size = size
        self.read = 0
        self._s3 = s3
        self._source = source
        self._etag = etag
        self._path = path

    @classmethod
    async def begin(cls, s3: Any, source: Location, etag: str | None, path: Path) -> Self:
        """Create an empty copy. Raises TaskError."""
        size = await object_bytes(s3, source, etag)
        with path.open("xb") as file:
            file.truncate(size)
        return cls(s3, source, etag, path, size)

    async def fetch(self, start: int, end: int) -> None:
        """Fetch bytes `start … end - 1` into their place. Raises TaskError."""
        with self._path.open("r+b") as file:
            file.seek(start)
            self.read += await download(self._s3, self._source, file, etag=self._etag, start=start, end=end)

    async def fetch_footer(self, footer_bytes: FooterBytes) -> bytes:
        """Fetch the footer into its place; returns it. Raises TaskError and SplitError."""
        begin = max(0, self.size - TAIL_BYTES)
        await self.fetch(begin, self.size)
        length = footer_bytes(self._source.uri, self._tail(self.size - begin), self.size)
        await self.fetch(min(begin, self.size - length), begin)
        return self._tail(length)

    def _tail(self, size: int) -> bytes:
        """The last bytes of the local copy."""
        with self._path.open("rb") as file:
            file.seek(self.size - size)
            return file.read()

    def as_input(self, part: NumberedBlocks, step: str, target: Path) -> FetchedInput:
        """The input; the child makes it from the fetched blocks by a step of the format."""
        arguments = {"source": str(self._path), "numbers": list(part.numbers)}
        return FetchedInput(
            target,
            self.read,
            part.format,
            source={"uri": part.location.uri, "byte": None},
            steps=[{"format": part.format, "step": step, "arguments": arguments}],
        )
