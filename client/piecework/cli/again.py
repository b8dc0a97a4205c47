"""`submit --again JOB --set …`: the specification of an earlier job, with single fields changed."""

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import typer

from piecework.cli import refs
from piecework.cli.job_file import JobFile, parsed
from piecework.cli.session import Session
from piecework.errors import InputError


@dataclass(frozen=True)
class AgainOptions:
    """The job that is submitted again, and fields of whatever specification is submitted."""

    again: Annotated[
        UUID | None, refs.JOB.option(help="Submit this job once more, in the place of a file."), refs.JOB
    ] = None
    set: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE", help="Change a field by its path: stages.0.params.x=2; repeatable."),
    ] = None

    def read(self, session: Session, file: JobFile) -> dict[str, Any]:
        """The earlier job's specification, or the file's. Raises InputError if both are given."""
        if self.again is None:
            return file.read()
        if file.file is not None:
            raise InputError(f"--again: {file.file} is a job, too; give one of the two")
        spec: dict[str, Any] = dict(session.client.get_job(self.again)["spec"])
        spec.pop("run_at", None)  # its time has passed
        return spec

    def change(self, spec: dict[str, Any]) -> None:
        """Set the fields. Raises InputError for a path that leads nowhere."""
        from piecework.jobfile import parse_value

        for assignment in self.set or ():
            path, equals, value = assignment.partition("=")
            if not equals or not path:
                raise InputError(f"--set: write FIELD=VALUE, such as stages.0.params.x=2 (got {assignment!r})")
            _assign(spec, path, parsed("--set", parse_value, value))


def _assign(spec: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at a dotted path; an element of a list is named by its number, or by its `name`."""
    *parents, last = path.split(".")
    holder: Any = spec
    for number, key in enumerate(parents):
        if isinstance(holder, dict):
            if holder.get(key) is None:
                holder[key] = {}
            holder = holder[key]
        else:
            holder = holder[_place(holder, key, path, ".".join(parents[:number]))]
    if isinstance(holder, dict):
        holder[last] = value
    else:
        holder[_place(holder, last, path, ".".join(parents))] = value


def _place(holder: Any, key: str, path: str, where: str) -> int:
    """The number of a list's element. Raises InputError if there is none, or this is not a list."""
    if not isinstance(holder, list):
        raise InputError(f"--set: {path}: {where} is {holder!r}, which has no fields")
    names = [element.get("name") if isinstance(element, dict) else None for element in holder]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(holder):
        return int(key)
    known = ", ".join(f"{number} ({name})" if name else str(number) for number, name in enumerate(names)) or "none"
    raise InputError(f"--set: {path}: there is no {where}.{key} (there are: {known})")
