"""A local file as long as an object, with only some of its bytes in place: those that a reader will look at."""

from pathlib import Path
from typing import Any, Self

from services.contract.location import Location
from services.platform.transfer import download, object_bytes

TAIL_BYTES = 1 << 16  # holds most footers


class SparseCopy:
    """`read` is how many bytes were fetched so far."""

    def __init__(self, s3: Any, source: Location, etag: str | None, path: Path, size: int) -> None:
        self.size = size
        self.read = 0
        self._s3 = s3
        self._source = source
        self._etag = etag
        self._path = path

    @classmethod
    async def begin(cls, s3: Any, source: Location, etag: str | None, path: Path) -> Self:
        """An empty one. Raises TaskError."""
        size = await object_bytes(s3, source, etag)
        with path.open("wb") as file:
            file.truncate(size)
        return cls(s3, source, etag, path, size)

    async def fetch(self, start: int, end: int) -> None:
        """Put bytes `start … end - 1` in their place. Raises TaskError."""
        with self._path.open("r+b") as file:
            file.seek(start)
            self.read += await download(self._s3, self._source, file, etag=self._etag, start=start, end=end)

    def tail(self, size: int) -> bytes:
        """The last bytes, as they are here."""
        with self._path.open("rb") as file:
            file.seek(max(0, self.size - size))
            return file.read()
