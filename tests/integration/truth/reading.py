"""An object cut into parts as the scheduler or a split task cuts it, and each part read as its task would read it."""

import json
import tempfile
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from services.contract.layout import Layout
from services.contract.task_error import TaskError
from services.contract.task_input import parse_input
from services.engine.attempt import ClaimedTask
from services.inputs.columns import Columns
from services.inputs.fetched import FetchedInput
from services.inputs.grid import needs_grid
from services.inputs.reach import Reach
from services.inputs.sample import find_columns
from services.inputs.split import split_on_grid
from services.platform.settings import Settings
from services.worker.child.prepare import prepare
from services.worker.child.records import apply_to_records
from services.worker.child.rejects import Rejects
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source
from services.worker.split import run_grid_split
from services.worker.split.meter import Meter
from services.worker.task.inputs import fetch_input
from tests.integration.inputs.conftest import INPUT, split_all

IDENTITY = "tests.cases.data.pkg.case_functions:same"


@dataclass
class Result:
    """The records of all parts in order, each a JSON value whose numbers are exact; and the rejects' reasons."""

    records: list[Any] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    copies: list[bytes] = field(default_factory=list)  # of each part, as a copy or a command sees it

    def key(self) -> str:
        return json.dumps([self.records, self.rejects], default=str)


class Cutting:
    """One object, cut in some way."""

    def __init__(self, s3: Any, bucket: str, uri: str, directory: Path) -> None:
        self.s3 = s3
        self.bucket = bucket
        self.uri = uri
        self.directory = directory

    async def parts(self, **options: Any) -> list[dict[str, Any]]:
        source = INPUT.validate_python({"uri": self.uri, **options})
        if not needs_grid(source):
            return await split_all_at(self.s3, uri=self.uri, **options)
        chunk = await split_on_grid(self.s3, [source], None, 2)
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        task = _task(chunk.inputs[0])
        listing, _ = await run_grid_split(
            Meter(self.s3),
            partial(Layout(self.bucket).attempt, task.job_id, 0, 0, 1),
            Reach(Settings()),
            task,
            directory,
        )
        return [orjson.loads(line) for line in listing.read_bytes().splitlines()]

    async def read(self, parts: list[dict[str, Any]], *, sql: bool, declared: Columns | None = None) -> Result:
        """Raises TaskError."""
        found = await find_columns(self.s3, [parse_input(part) for part in parts]) if sql else None
        result = Result()
        for number, part in enumerate(parts):
            directory = Path(tempfile.mkdtemp(dir=self.directory))
            input = await fetch_input(self.s3, _task(part), directory)
            prepare(input.steps, input.path)
            prepare(input.checks, input.path)
            result.copies.append(input.path.read_bytes()[input.header_bytes if number else 0 :])
            self._read(input, directory, result, sql, found, declared or {})
        return result

    def _read(
        self,
        input: FetchedInput,
        directory: Path,
        result: Result,
        sql: bool,
        found: Columns | None,
        declared: Columns,
    ) -> None:
        output, rejects = directory / "output.jsonl", directory / "rejects.jsonl"
        sources = {input.path.name: input.source} if input.source else {}
        with Rejects(rejects, None, {"stage": 0, "index": 0, "sources": sources}) as rejected:
            if sql:
                run_query(
                    "SELECT * FROM input",
                    input=Source(input.path, input.format, input.options, declared, found),
                    inputs={},
                    output=output,
                    output_format="jsonl",
                    params={},
                    room=Room(512 << 20, 1, directory / "spill"),
                    rejected=rejected,
                    check_input=lambda: None,
                )
            else:
                apply_to_records(
                    IDENTITY,
                    input=input.path,
                    format=input.format,
                    options=input.options,
                    columns=declared,
                    output=output,
                    output_format="jsonl",
                    rejected=rejected,
                    params={},
                )
        result.records += [json.loads(line, parse_float=Decimal) for line in output.read_bytes().split(b"\n") if line]
        lines = rejects.read_bytes().split(b"\n") if rejects.exists() else []
        result.rejects += [json.loads(line)["reason"] for line in lines if line]


async def split_all_at(s3: Any, **source: Any) -> list[dict[str, Any]]:
    class Clients:
        pass

    clients = Clients()
    clients.s3 = s3  # type: ignore[attr-defined]
    return await split_all(clients, **source)  # type: ignore[arg-type]


def _task(value: dict[str, Any]) -> ClaimedTask:
    return ClaimedTask(UUID(int=2), UUID(int=1), 0, 0, 1, parse_input(value))


__all__ = ["IDENTITY", "Cutting", "Result", "TaskError"]
