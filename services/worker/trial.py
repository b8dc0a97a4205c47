"""Runs one task on this machine as a worker would, with the same child: `python -m services.worker.trial TRIAL OUT`.

TRIAL is the file of what the API says of the task (get_task_trial), or of a processor (get_processor_trial) with the
input and the params that it shall have. What the task reads comes by the presigned links in it, or is at a `path` of
this machine; what it makes, and its log, goes to the directory OUT. Nothing of it reaches the grid. The end is a line
of JSON on standard output: how the attempt ended.
"""

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID

import httpx
import structlog
from botocore.exceptions import ClientError, HTTPClientError
from pydantic import ValidationError

from services.contract.location import Location
from services.contract.source import TaskSource
from services.contract.task_input import parse_input
from services.engine.attempt import AttemptReport, ClaimedTask, StageWork
from services.engine.errors import explain
from services.engine.params_schema import check_schema
from services.engine.processor_checks import check_named_params, check_processor
from services.engine.spec import ProcessorSpec
from services.engine.submission import check_params_of, check_program, resolve_inputs
from services.platform.settings import WorkerSettings
from services.worker.node.node import equip
from services.worker.task.attempt import run_attempt
from services.worker.task.levels import strongest_cells
from services.worker.task.secrets import VARIABLE_PREFIX
from services.worker.task.turn import Turn
from services.worker.task.warm_children import WarmChildren

_CODES = {403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed", 416: "InvalidRange"}
_SECONDS = 60.0
_TIMEOUT_SECONDS = 3600.0  # of an attempt, as in a job
_NO_JOB = UUID(int=0)


class LinkedS3:
    """What a worker asks of S3: reads by presigned links or of this machine's files, writes below a directory."""

    def __init__(
        self, http: httpx.AsyncClient, objects: list[Mapping[str, Any]], out: Path, made_under: Collection[str]
    ) -> None:
        self._http = http
        self._links = {(each["uri"], each["version"]): each["url"] for each in objects if "url" in each}
        self._files = {each["uri"]: Path(each["path"]) for each in objects if "path" in each}
        self._out = out
        self._made_under = made_under
        self._put: dict[str, bytes] = {}
        self.meta = SimpleNamespace(config=SimpleNamespace(read_timeout=_SECONDS))

    async def get_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Range: str | None = None,
        IfMatch: str | None = None,
        VersionId: str | None = None,
    ) -> dict[str, Any]:
        uri = Location(Bucket, Key).uri
        if (body := self._put.get(uri)) is not None:
            return {"ETag": _etag(body), "Body": _Kept(body)}
        if (path := self._files.get(uri)) is not None:
            return _read_file(path, Range, IfMatch)
        link = self._links.get((uri, VersionId))
        if link is None:
            raise _refusal(404, "GetObject")
        headers = {name: value for name, value in (("Range", Range), ("If-Match", IfMatch)) if value is not None}
        try:
            response = await self._http.send(self._http.build_request("GET", link, headers=headers), stream=True)
        except httpx.TransportError as error:
            raise HTTPClientError(error=error) from error
        if response.is_error:
            await response.aclose()
            raise _refusal(response.status_code, "GetObject")
        return {"ETag": response.headers.get("etag", ""), "Body": _Streamed(response), "headers": response.headers}

    async def head_object(self, *, Bucket: str, Key: str, **conditions: Any) -> dict[str, Any]:
        """By a read of a byte: the links are for reading alone."""
        answer = await self.get_object(Bucket=Bucket, Key=Key, Range="bytes=0-0", **conditions)
        async with answer["Body"]:
            total = answer["headers"].get("content-range", "/0").rpartition("/")[2]
        return {"ETag": answer["ETag"], "ContentLength": int(total)}

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes, **_: Any) -> dict[str, Any]:
        uri = Location(Bucket, Key).uri
        if not uri.startswith(tuple(self._made_under)):  # what workers agree on
            self._put[uri] = Body
        else:
            path = self._path(uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(Body)
        return {"ETag": _etag(Body)}

    async def create_multipart_upload(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        path = self._path(Location(Bucket, Key).uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        return {"UploadId": "local"}

    async def upload_part(self, *, Bucket: str, Key: str, PartNumber: int, Body: bytes, **_: Any) -> dict[str, Any]:
        path = self._path(Location(Bucket, Key).uri)
        path.with_name(f"{path.name}.{PartNumber}").write_bytes(Body)
        return {"ETag": _etag(Body)}

    async def complete_multipart_upload(
        self, *, Bucket: str, Key: str, MultipartUpload: Mapping[str, Any], **_: Any
    ) -> dict[str, Any]:
        path = self._path(Location(Bucket, Key).uri)
        with path.open("wb") as whole:
            for part in MultipartUpload["Parts"]:
                piece = path.with_name(f"{path.name}.{part['PartNumber']}")
                whole.write(piece.read_bytes())
                piece.unlink()
        return {"ETag": '"local"'}

    async def abort_multipart_upload(self, **_: Any) -> None:
        """What is left of it lies in the directory."""

    async def head_bucket(self, **_: Any) -> None:
        """There is none that could be away."""

    def _path(self, uri: str) -> Path:
        return self._out / next(uri.removeprefix(place) for place in self._made_under if uri.startswith(place))


class _Streamed:
    """The body of an answer, as the client of S3 gives it."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._chunks = response.aiter_raw(1 << 20)

    async def read(self, _: int = -1) -> bytes:
        try:
            if _ >= 0:
                return await anext(self._chunks, b"")
            return b"".join([chunk async for chunk in self._chunks])
        except httpx.TransportError as error:
            raise HTTPClientError(error=error) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._response.aclose()


class _Kept:
    """A body that was put."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self, _: int = -1) -> bytes:
        body, self._body = self._body, b""
        return body

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class _OnDisk:
    """A range of a file of this machine."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self._file = path.open("rb")
        self._file.seek(start)
        self._left = max(end - start, 0)

    async def read(self, count: int = -1) -> bytes:
        chunk = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(chunk)
        return chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._file.close()


def _read_file(path: Path, range: str | None, if_match: str | None) -> dict[str, Any]:
    """A file of this machine as an object: like one, it is another one when it has changed."""
    try:
        found = path.stat()
        etag, size = f'"{found.st_mtime_ns:x}-{found.st_size:x}"', found.st_size
        if if_match not in (None, etag):
            raise _refusal(412, "GetObject")
        first, _, last = (range or "bytes=0-").removeprefix("bytes=").partition("-")
        end = min(int(last) + 1, size) if last else size
        headers = {"content-range": f"bytes {first}-{end - 1}/{size}"}
        return {"ETag": etag, "Body": _OnDisk(path, int(first), end), "headers": headers}
    except OSError as error:
        raise _refusal(404, "GetObject") from error


def _refusal(status: int, operation: str) -> ClientError:
    error = {"Code": _CODES.get(status, str(status)), "Message": f"the link answered {status}"}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _as_task(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A task of a processor, which is checked as when it is registered and submitted. Raises ValueError."""
    spec = ProcessorSpec.model_validate(trial["spec"], extra="ignore" if trial["version"] else "forbid")
    if spec.image is not None:
        raise ValueError(f"its container is not run here: run {spec.image} with your own docker or podman")
    if spec.params_schema is not None:
        check_schema(spec.params_schema)
    check_processor(spec)
    reference = f"{trial['name']}@{trial['version'] or 'new'}"
    check_program(spec, reference, "command")
    check_params_of(spec, trial["params"], reference, "params")
    check_named_params(spec, trial["params"], reference, "params")
    work = StageWork(
        job_id=_NO_JOB,
        stage=0,
        job_name="try",
        stage_name=trial["name"],
        kind="map",
        processor=trial["name"],
        processor_version=trial["version"],
        spec=_with_secrets(spec),
        params=trial["params"],
        inputs=resolve_inputs(trial["inputs"], spec, "inputs"),
        fan_out=spec.output_directory,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    task = {"job_id": str(_NO_JOB), "stage": 0, "index": 0, "attempt": 1, "input": trial["input"]}
    read = {name: trial[name] for name in ("place", "objects", "package")}
    return task | {"work": work.model_dump(mode="json")} | read


def _with_secrets(spec: ProcessorSpec) -> ProcessorSpec:
    """Each secret by this machine's variable of its name: nobody else gives its value. Raises ValueError."""
    own = {}
    for name, reference in (spec.secrets or {}).items():
        if name in os.environ:
            os.environ[f"{VARIABLE_PREFIX}{name}"] = os.environ[name]
            own[name] = f"env:{name}"
        elif reference.startswith("env:") and VARIABLE_PREFIX + reference.removeprefix("env:") in os.environ:
            own[name] = reference
    if missing := [name for name in spec.secrets or {} if name not in own]:
        raise ValueError(f"secrets are not given to this machine: set the missing variables {', '.join(missing)}")
    return spec.model_copy(update={"secrets": own or None})


def _code_here(trial: Mapping[str, Any], work: StageWork, settings: WorkerSettings) -> list[dict[str, Any]]:
    """The package of a processor that is not registered yet."""
    if (path := trial.get("package")) is None or work.spec.package is None:
        return []
    return [{"uri": settings.layout.package(work.spec.package).uri, "path": path}]


async def run_trial(trial: Mapping[str, Any], out: Path) -> AttemptReport:
    """Run the task; its outputs and log.txt are in `out` then. Raises ValueError for a trial of another release, and
    for a processor that would not be accepted."""
    if "spec" in trial:
        trial = _as_task(trial)
    work = StageWork.model_validate(trial["work"], extra="ignore")
    value, job_id = trial["input"], UUID(trial["job_id"])
    key = (job_id, trial["stage"], trial["index"], trial["attempt"])
    task = ClaimedTask(UUID(int=0), *key, parse_input(value), TaskSource.of(value))
    place = Location.parse(trial["place"])
    with tempfile.TemporaryDirectory(prefix="piecework-try-") as scratch:
        settings = WorkerSettings(
            bucket=place.bucket,
            prefix=place.key.rstrip("/"),
            scratch=scratch,
            cache=str(Path.home() / ".cache" / "piecework" / "try"),
            slots=1,
            container_engine="none",
        )
        cells = await strongest_cells(settings, Path(scratch))
        made_under = {settings.layout.attempt(*key, "", interim=interim).uri for interim in (True, False)}
        async with httpx.AsyncClient(timeout=_SECONDS) as http:
            objects = [*trial["objects"], *_code_here(trial, work, settings)]
            equipment = equip(settings, LinkedS3(http, objects, out, made_under), cells)
            free: asyncio.LifoQueue[WarmChildren] = asyncio.LifoQueue()
            children = WarmChildren(cells)
            free.put_nowait(children)
            try:
                return await run_attempt(equipment, task, work, Turn(free, lambda: None, lambda: None))
            finally:
                await children.close()
                await equipment.inputs.close()
                await equipment.packages.close()


def main() -> None:
    trial, out = json.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        report = asyncio.run(run_trial(trial, out))
    except ValidationError as error:
        sys.exit(explain(error))
    except ValueError as error:
        sys.exit(str(error))
    shown = asdict(report)
    print(json.dumps({name: shown[name] for name in ("outcome", "run_seconds", "exit_code", "error", "output")}))


if __name__ == "__main__":
    main()
