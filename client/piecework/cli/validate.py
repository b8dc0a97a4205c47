"""`piecework validate`: whether a job would be accepted, and what would become of it; nothing is uploaded or made."""

from pathlib import Path
from typing import Any

import typer

from piecework.cli.input_options import InputOptions
from piecework.cli.job_file import JobFile, name_after
from piecework.cli.job_options import JobOptions, MergeOptions, StageOptions, WhenOptions
from piecework.cli.session import Session, command
from piecework.errors import InputError, Invalid
from piecework.shapes import Job, Split, Stage

_TOO_OLD = "the server is of a release that can't check a job without submitting it"


def validate(
    session: Session,
    file: JobFile,
    job: JobOptions,
    input: InputOptions,
    stages: StageOptions,
    merge: MergeOptions,
    when: WhenOptions,
) -> None:
    """Check a job as a submission does, and show its stages; nothing is uploaded, submitted or run.

    It takes a job file and options like `piecework submit`. Exits with 2 if the job would be refused.
    """
    from piecework.jobfile import with_uploads_to_come

    when.check(False)
    spec = file.read()
    for options in (job, input, stages, merge, when):
        options.change(spec)
    input.limit(spec)
    spec = name_after(spec, file.file)
    tested = with_uploads_to_come(spec, file.local_root)
    checked = _dry_run(session, tested)
    if checked is None:
        raise InputError(_TOO_OLD)
    session.show(checked, lambda job: _show(session, job, _preview(session, spec, tested, job)))


def check_before_upload(session: Session, spec: dict[str, Any], directory: Path) -> None:
    """A job that names local files is checked before they are uploaded. Raises Invalid and the like."""
    from piecework.jobfile import with_uploads_to_come

    tested = with_uploads_to_come(spec, directory)
    if tested != spec:
        _dry_run(session, tested)  # a server that can't do it checks later


def _dry_run(session: Session, spec: dict[str, Any]) -> Job | None:
    """None if the server is of a release that knows no dry runs. Raises Invalid and the like."""
    try:
        return session.client.submit_job(spec, dry_run=True)
    except Invalid as refused:
        if "after" not in spec and any(error["field"] == "after" for error in refused.errors):
            return None
        raise


def _preview(session: Session, spec: dict[str, Any], tested: dict[str, Any], job: Job) -> Split | None:
    """How the input is split, if it is there and its number of tasks is not known without a look."""
    if tested["input"] != spec["input"] or job["state"] == "scheduled" or job["stages"][0]["task_count"] is not None:
        return None
    return session.client.preview_split(spec["input"], pool=job["stages"][0]["pool"], parts_max=0)


def _show(session: Session, job: Job, split: Split | None) -> None:
    from piecework.display import table

    table(
        session.out,
        ["STAGE", "~NAME", "PROCESSOR", "POOL", ">TASKS"],
        (
            (stage["stage"], stage["name"], stage["processor"], stage["pool"], _tasks(stage, split))
            for stage in job["stages"]
        ),
    )
    session.note(f"job {job['name']} is valid; nothing was submitted")


def _tasks(stage: Stage, split: Split | None) -> str:
    if stage["task_count"] is not None:
        return f"{stage['task_count']:,}"
    if stage["stage"] == 0 and split is not None:
        return f"{'' if split['exact'] else 'about '}{split['count']:,}"
    return "?"


def register(app: typer.Typer) -> None:
    command(app, "validate")(validate)
