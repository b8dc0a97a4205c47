"""Bytes between local files and S3, over presigned links: in parallel, with retries, never a half-written file."""

import base64
import hashlib
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

import httpx

from piecework.errors import InputError, TransferError
from piecework.shapes import ResultFile, Upload, UploadedPart, UploadLink
from piecework.transport import backoff

T = TypeVar("T")
P = TypeVar("P")

# Told of every piece that went over the wire: a number of bytes, negative when they must be sent again.
ReportBytes = Callable[[int], object]

THREADS = 4
CHUNK_BYTES = 262_144
# What macOS (with the resource forks of files on other disks) and Windows write into the directories that they show.
_OF_DESKTOPS = re.compile(r"\.DS_Store|\.localized|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
CHANGED = "changed while it was uploaded; upload it again"


class Stopped(Exception):
    """Another transfer of the same batch failed, or the user gave up."""


class Transfers:
    """Uploads and downloads, THREADS at a time; each piece is tried `tries` times."""

    def __init__(self, http: httpx.Client, tries: int) -> None:
        self._http = http
        self._tries = tries

    def send(self, path: Path, upload: Upload, progress: ReportBytes | None = None) -> list[UploadedPart]:
        """Send every part of `path` that has a link; returns all parts.

        Raises TransferError, and InputError if the file changes meanwhile.
        """
        before = path.stat()
        uploaded = upload.get("uploaded", [])
        _check_announced(path, before.st_size, upload, uploaded)
        _check_uploaded(path, upload, uploaded)
        report = progress or _ignore
        report(before.st_size - sum(part["bytes"] for part in upload["parts"]))

        def send(part: UploadLink, stop: threading.Event) -> UploadedPart:
            start = (part["number"] - 1) * upload["part_bytes"]
            etag = self._repeat(lambda: self._send_part(path, part, start, stop, report), str(path), stop)
            return {"number": part["number"], "etag": etag}

        sent = _in_parallel(send, upload["parts"])
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise InputError(f"{path}: {CHANGED}")
        return [*uploaded, *sent]

    def put(self, path: Path, url: str, progress: ReportBytes | None = None) -> None:
        """Send a file to a link that takes it whole. Raises TransferError."""
        part: UploadLink = {"number": 1, "url": url, "bytes": path.stat().st_size}
        stop, report = threading.Event(), progress or _ignore
        self._repeat(lambda: self._send_part(path, part, 0, stop, report), str(path), stop)

    def send_files(
        self, files: Iterable[Path], directory: Path, upload: Upload, progress: ReportBytes | None = None
    ) -> None:
        """Send files of a directory, each whole and by its path in there. Raises TransferError."""
        form, report = upload.get("form"), progress or _ignore
        if form is None:
            raise TransferError(f"{directory}: the API takes single files only; it is older than this client")

        def send(path: Path, stop: threading.Event) -> None:
            key = form["fields"]["key"].replace("${filename}", path.relative_to(directory).as_posix())
            fields = {**form["fields"], "key": key}

            def post() -> None:
                with path.open("rb") as content:
                    _check(self._http.post(form["url"], data=fields, files={"file": content}))

            self._repeat(post, str(path), stop)
            report(path.stat().st_size)

        _in_parallel(send, list(files))

    def download(self, files: Iterable[ResultFile], directory: Path, progress: ReportBytes | None = None) -> list[Path]:
        """Download `files` into `directory`. Each appears whole and undamaged, under its own name, or not at all."""
        report = progress or _ignore
        directory.mkdir(parents=True, exist_ok=True)
        targets = [(file, _target(directory, file["name"])) for file in files]

        def fetch(piece: tuple[ResultFile, Path], stop: threading.Event) -> Path:
            file, target = piece
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{uuid4().hex}.part")
            try:
                with part.open("xb") as content:
                    download = _Download(self._http, file, content, stop, report)
                    self._repeat(download.go_on, file["name"], stop)
                return part.replace(target)
            finally:
                part.unlink(missing_ok=True)

        return _in_parallel(fetch, targets)

    def read(self, url: str) -> bytes:
        """A small object, whole."""

        def get() -> bytes:
            response = self._http.get(url)
            _check(response)
            return response.content

        return self._repeat(get, "the object", threading.Event())

    def _send_part(self, path: Path, part: UploadLink, start: int, stop: threading.Event, progress: ReportBytes) -> str:
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            with path.open("rb") as file:
                file.seek(start)
                while sent < part["bytes"]:
                    if stop.is_set():
                        raise Stopped
                    chunk = file.read(min(CHUNK_BYTES, part["bytes"] - sent))
                    if not chunk:
                        raise InputError(f"{path}: {CHANGED}")
                    yield chunk
                    sent += len(chunk)
                    progress(len(chunk))

        try:
            # S3 takes no chunked bodies: the length must be said.
            response = self._http.put(part["url"], content=chunks(), headers={"Content-Length": str(part["bytes"])})
            _check(response)
        except BaseException:
            progress(-sent)
            raise
        return response.headers["ETag"]

    def _repeat(self, action: Callable[[], T], what: str, stop: threading.Event) -> T:
        failures = 0
        while True:
            try:
                return action()
            except (httpx.RequestError, _Temporary) as error:
                failures += 1
                if failures >= self._tries:
                    reason = str(error) or type(error).__name__
                    raise TransferError(f"{what}: the transfer broke {failures} times: {reason}") from error
            except _Refused as error:
                raise TransferError(f"{what}: {error}") from error
            if stop.wait(backoff(failures)):
                raise Stopped


class _Download:
    """One object on its way into a file; goes on where the last try ended if the object is still the same."""

    def __init__(
        self, http: httpx.Client, file: ResultFile, target: BinaryIO, stop: threading.Event, progress: ReportBytes
    ) -> None:
        self._http = http
        self._file = file
        self._target = target
        self._stop = stop
        self._progress = progress
        self._etag = ""
        self._received = 0
        self._crc32 = 0

    def go_on(self) -> None:
        # If-Range: an object that was replaced meanwhile comes whole, not as a tail that doesn't fit.
        headers = {"Accept-Encoding": "identity"}
        if self._received and self._etag:
            headers |= {"Range": f"bytes={self._received}-", "If-Range": self._etag}
        with self._http.stream("GET", self._file["url"], headers=headers) as response:
            if not response.is_success:
                response.read()
                _check(response)
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                self._start_over()
            self._etag = response.headers.get("ETag", "")
            for chunk in response.iter_raw(CHUNK_BYTES):
                if self._stop.is_set():
                    raise Stopped
                self._target.write(chunk)
                self._received += len(chunk)
                self._crc32 = zlib.crc32(chunk, self._crc32)
                self._progress(len(chunk))
        self._verify()

    def _verify(self) -> None:
        if self._received != self._file["bytes"]:
            raise _Refused(
                f"has {self._received} bytes, not {self._file['bytes']}; the results changed: list them again"
            )
        expected = self._file.get("checksum_crc32")
        checksum = base64.b64encode(self._crc32.to_bytes(4, "big")).decode()
        if expected not in (None, checksum):
            raise _Refused(f"its CRC-32 is {checksum}, not {expected}: damaged bytes were not kept; download it again")

    def _start_over(self) -> None:
        self._progress(-self._received)
        self._received = self._crc32 = 0
        self._target.seek(0)
        self._target.truncate()


class _Temporary(Exception):
    """S3 failed; the same request may work later."""


class _Refused(Exception):
    """S3 refused; the same request will never work."""


def _check(response: httpx.Response) -> None:
    """Raises _Temporary or _Refused, with S3's own words, unless the answer is a success."""
    if response.is_success:
        return
    found = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", response.text, re.DOTALL)
    said = f"{found[1]}: {found[2]}" if found else response.reason_phrase
    message = f"S3 answered {response.status_code} {said}"
    if response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise _Temporary(message)
    if response.status_code == httpx.codes.FORBIDDEN:
        message += "; the presigned link may have expired: ask for a new one"
    raise _Refused(message)


def _check_announced(path: Path, size: int, upload: Upload, uploaded: list[UploadedPart]) -> None:
    """Raises InputError unless the upload, which may be an earlier one, is for a file of this size."""
    before_last = (len(upload["parts"]) + len(uploaded) - 1) * upload["part_bytes"]
    last = {part["number"]: part["bytes"] for part in upload["parts"]}.get(len(upload["parts"]) + len(uploaded))
    fits = size - before_last == last if last is not None else 0 < size - before_last <= upload["part_bytes"]
    if not fits:
        raise InputError(
            f"{path}: it has {size:,} bytes, for which this upload was not begun; upload it without resuming"
        )


def _check_uploaded(path: Path, upload: Upload, uploaded: list[UploadedPart]) -> None:
    """Raises InputError unless the parts that S3 has are the file's: their ETags are MD5s (but for KMS keys)."""
    with path.open("rb") as file:
        for part in uploaded:
            file.seek((part["number"] - 1) * upload["part_bytes"])
            digest = hashlib.md5(file.read(upload["part_bytes"]), usedforsecurity=False).hexdigest()
            if part["etag"].strip('"') != digest:
                raise InputError(
                    f"{path}: part {part['number']} is not what was uploaded: the file has changed since, or the "
                    "bucket is encrypted by a key of KMS, which hides it; upload the file again without resuming"
                )


class Content:
    """A local file, or all files of a directory, as they are now. Raises InputError for an empty directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.files = files_in(path)[0] if path.is_dir() else [path]
        self._before = self._look()
        self.bytes = sum(size for size, _ in self._before)

    def _look(self) -> list[tuple[int, int]]:
        return [(found.st_size, found.st_mtime_ns) for found in (file.stat() for file in self.files)]

    def sha256(self) -> str:
        """Of a file's bytes; of a directory's names and files."""
        if not self._path.is_dir():
            return _sha256(self._path)
        whole = hashlib.sha256()
        for file in self.files:
            whole.update(f"{file.relative_to(self._path).as_posix()}\0{_sha256(file)}\0".encode())
        return whole.hexdigest()

    def check_unchanged(self) -> None:
        """Raises InputError: what was sent would have another content than was announced."""
        for file, before, after in zip(self.files, self._before, self._look(), strict=True):
            if before != after:
                raise InputError(f"{file}: {CHANGED}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(directory: Path) -> tuple[list[Path], list[Path]]:
    """All files in a directory and the directories in it, in order, and those that are left out: the desktop's own.

    Raises InputError if there are none.
    """
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    files = [path for path in found if not _OF_DESKTOPS.fullmatch(path.name)]
    if not files:
        raise InputError(f"{directory}: there is no file in it")
    return files, [path for path in found if _OF_DESKTOPS.fullmatch(path.name)]


def _target(directory: Path, name: str) -> Path:
    """Where a result goes; raises TransferError for a name that leads out of `directory`."""
    target, inside = directory / name, directory.resolve()
    if inside not in target.resolve().parents:
        raise TransferError(f"{name!r} is not a name inside {directory}; not downloaded")
    return target


def _in_parallel(transfer: Callable[[P, threading.Event], T], pieces: list[P]) -> list[T]:
    """Results in the order of `pieces`. The first failure (or Ctrl-C) stops the others and is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(THREADS) as executor:
        futures = [executor.submit(transfer, piece, stop) for piece in pieces]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)
    _raise_cause(futures)
    return [future.result() for future in futures]


def _raise_cause(futures: list[Future[T]]) -> None:
    failures = [future.exception() for future in futures if not future.cancelled()]
    for failure in failures:
        if failure is not None and not isinstance(failure, Stopped):
            raise failure


def _ignore(size: int) -> None:
    pass
