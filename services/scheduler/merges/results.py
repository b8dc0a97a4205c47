"""The result files of a job, by its merge: joined, reduced, or left where they are; rejects beside them."""

from collections.abc import AsyncIterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from asyncpg import Record
from pydantic import TypeAdapter

from services.contract.location import Location
from services.contract.output_name import common_folder, result_folders
from services.contract.source import TaskSource
from services.contract.task_output import StoredObject, TaskOutput
from services.engine.spec import ConcatMerge, Merge, NoMerge
from services.scheduler.loop import Context
from services.scheduler.merges.concatenate import Extent, Piece, Source, concatenate
from services.scheduler.merges.lines import join_lines, source_of
from services.scheduler.merges.outputs import (
    OUTPUTS,
    REJECTS,
    Facts,
    Measured,
    Objects,
    Stages,
    file_facts,
    further_outputs,
    measure,
    read_objects,
    succeeded_tasks,
)

FILES_MAX = 1000  # parts listed as result files when nothing is merged; the manifest always lists all
_MERGE: TypeAdapter[Merge] = TypeAdapter(Merge)
_LAST = """
    SELECT output FROM tasks WHERE job_id = $1 AND stage = $2 AND state = 'succeeded' ORDER BY index DESC LIMIT 1"""


class Results:
    """Makes the results of a job whose last stage has ended.

    `job` has job_id, the merge, the place of its results; of its last stage the number and its processor's further
    `outputs`; and the `resplit` of a stage that follows.
    """

    def __init__(self, context: Context, job: Mapping[str, Any]) -> None:
        self._context = context
        self._job = job
        self._layout = context.settings.layout

    def place(self, filename: str) -> Location:
        """Where a result goes: the user's own place, or Piecework's."""
        return self._layout.result(self._job["job_id"], filename, self._job["results"])

    async def write(self) -> list[Facts]:
        """Write all but the manifest; returns the facts of the files."""
        merge = _MERGE.validate_python(self._job["merge"], extra="ignore")
        if isinstance(merge, NoMerge):
            files = await self._list_parts()
        elif isinstance(merge, ConcatMerge):
            files = await self._join_outputs(merge.filename, merge.lines)
        else:
            files = await self._publish_reduced(merge.filename)
        rejects = await measure(self._context.database, self._job["job_id"], (0, self._job["stage"]), REJECTS)
        if rejects.extent.sources:
            target = self.place("rejects.jsonl")
            files.append(await self._join((0, self._job["stage"]), REJECTS, target, rejects, lines=False))
        return files

    async def join_stage(self) -> Facts:
        """Join the stage's outputs to one interim object, for the next stage to split again."""
        target = self._layout.joined(self._job["job_id"], self._job["stage"])
        return await self._join_of_stage(OUTPUTS, target, self._job["resplit"].get("format") != "fixed")

    async def _join_outputs(self, filename: str, lines: bool | None) -> list[Facts]:
        wanted = [(filename, OUTPUTS)]
        wanted += [(name, further_outputs(key)) for key, name in sorted((self._job["outputs"] or {}).items())]
        return [await self._join_of_stage(objects, self.place(name), lines) for name, objects in wanted]

    async def _join_of_stage(self, objects: Objects, target: Location, lines: bool | None) -> Facts:
        stages = (self._job["stage"], self._job["stage"])
        measured = await measure(self._context.database, self._job["job_id"], stages, objects)
        return await self._join(stages, objects, target, measured, lines=lines)

    async def _join(
        self, stages: Stages, objects: Objects, target: Location, measured: Measured, *, lines: bool | None
    ) -> Facts:
        stored = read_objects(self._context.database, self._job["job_id"], stages, objects)
        pieces = join_lines(self._context.aws.s3, stored, lines, all_text=measured.all_text)
        return await self._concatenate(target, pieces, measured.extent)

    async def _concatenate(self, target: Location, sources: AsyncIterator[Piece], extent: Extent) -> Facts:
        name = PurePosixPath(target.key).name
        sections = self._layout.sections(self._job["job_id"], self._job["stage"], name)
        joined = await concatenate(self._context.aws.s3, target, sources, extent, sections)
        return file_facts(target, joined.bytes, joined.crc32)

    async def _publish_reduced(self, filename: str | None) -> list[Facts]:
        """Copy what the reduce's last task made to the results; nothing if that is only a value."""
        value = await self._context.database.fetchval(_LAST, self._job["job_id"], self._job["stage"])
        output = TaskOutput.from_json(value)
        made = [(filename or _name(output.object), output.object)] if output.object else []
        made += [(_name(file), file) for _, file in sorted(output.files.items())]
        files = []
        for name, object_ in made:
            source = source_of(object_)
            files.append(await self._concatenate(self.place(name), _alone(source), Extent(1, source.bytes)))
        return files

    async def _list_parts(self) -> list[Facts]:
        files: list[Facts] = []
        async for task in succeeded_tasks(
            self._context.database, self._job["job_id"], self._job["stage"], self._job["stage"]
        ):
            files += self._part_files(task, TaskOutput.from_json(task["output"]))
            if len(files) > FILES_MAX:
                return []
        return files

    def _part_files(self, task: Record, output: TaskOutput) -> list[Facts]:
        """The objects of one part."""
        made = output.named_files(task["index"], self._folders(task))
        return [file_facts(object_.location, object_.bytes, object_.crc32, name) for name, object_ in made]

    def _folders(self, task: Record) -> str | None:
        """Of a part that the processor has named after its source; None of one that is named by its task."""
        if not self._job["named"]:
            return None
        return result_folders(TaskSource.of({"source": task["source"]}), common_folder(self._job["inputs"]))


def _name(object_: StoredObject) -> str:
    return PurePosixPath(object_.location.uri).name


async def _alone(source: Source) -> AsyncIterator[Piece]:
    yield source
