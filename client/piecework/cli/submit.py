"""`piecework submit`: a job from a file, from options, or from a file changed by options."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from piecework.cli.input_options import (
    Count,
    Exclude,
    Format,
    Include,
    InputUri,
    Item,
    Multiline,
    ObjectsPerTask,
    PartBytes,
    Parts,
    RowGroups,
    UploadPath,
    mapping_of,
    read_job_file,
    set_fields,
    set_input,
)
from piecework.cli.jobs import watch_to_end
from piecework.cli.objects import upload_inputs
from piecework.cli.session import Session, command, parse_pairs
from piecework.errors import InputError
from piecework.shapes import Misfire

_WORK = "Work"
_WHEN = "When"


def submit(
    session: Session,
    file: Annotated[
        Path | None, typer.Argument(metavar="JOB.yaml", help="Job file, YAML or JSON; - reads standard input.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the job file's local paths are; default: beside it.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the job until it ends.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the job (or schedule).")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label; repeatable.")] = None,
    priority: Annotated[int | None, typer.Option(help="-100..100; higher runs first.")] = None,
    share: Annotated[str | None, typer.Option(help="Jobs of one share divide its part of a pool.")] = None,
    input_uri: InputUri = None,
    upload: UploadPath = None,
    format: Format = None,
    part_bytes: PartBytes = None,
    parts: Parts = None,
    row_groups: RowGroups = None,
    multiline: Multiline = False,
    include: Include = None,
    exclude: Exclude = None,
    objects_per_task: ObjectsPerTask = None,
    item: Item = None,
    count: Count = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            "--processor",
            metavar="[NAME=]PROCESSOR[@VERSION]",
            help="A stage; repeatable, in order.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STAGE.]KEY=VALUE",
            help="Parameter (a YAML value) of a stage, by name or number; of the only one if absent.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Pool of all stages.", rich_help_panel=_WORK)] = None,
    merge: Annotated[
        str | None,
        typer.Option(
            metavar="none|concat[:FILENAME]|reduce:PROCESSOR", help="How results become one.", rich_help_panel=_WORK
        ),
    ] = None,
    run_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start no earlier, such as 2026-01-31T17:00.", rich_help_panel=_WHEN),
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(help="Make a schedule, such as '0 6 L * *', instead of a job.", rich_help_panel=_WHEN),
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option(
            help="Of --cron (default UTC) and of a --run-at without offset (default local).", rich_help_panel=_WHEN
        ),
    ] = None,
    misfire: Annotated[
        Misfire | None, typer.Option(help="What to do about missed runs of a schedule.", rich_help_panel=_WHEN)
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Submitting again with this key gives the first job.")
    ] = None,
) -> None:
    """Submit a job and print its id.

    From a job file, from options, or from both: options override the file.

    Local paths as inputs, seen from the job file or from --directory, are uploaded first; a directory as a prefix.

    With --cron it makes a schedule and prints the schedule's id.
    """
    _check_when(watch=watch, cron=cron, run_at=run_at, time_zone=time_zone, misfire=misfire)
    spec, seen_from = read_job_file(file)
    set_fields(spec, name=name, priority=priority, share=share)
    if label:
        spec["labels"] = mapping_of(spec, "labels") | parse_pairs("--label", label)
    set_input(
        spec,
        uri=input_uri,
        upload=upload,
        items=item,
        count=count,
        format=format,
        part_bytes=part_bytes,
        parts=parts,
        row_groups=row_groups,
        multiline=multiline or None,
        include=include,
        exclude=exclude,
        objects_per_task=objects_per_task,
    )
    _set_stages(spec, stage, param, pool)
    set_fields(spec, merge=_merge(merge), run_at=_run_at(run_at, time_zone))
    upload_inputs(session, spec, directory or seen_from)
    if cron is not None:
        schedule = session.client.create_schedule(
            str(spec.get("name", "job")),
            cron,
            spec,
            time_zone=time_zone or "UTC",
            misfire=misfire or "run_once",
            idempotency_key=idempotency_key,
        )
        session.show(schedule, lambda schedule: print(schedule["schedule_id"]))
        return
    job = session.client.submit_job(spec, idempotency_key=idempotency_key)
    if watch:
        if not session.as_json:
            print(job["job_id"], flush=True)
        watch_to_end(session, job)
    else:
        session.show(job, lambda job: print(job["job_id"]))


def _check_when(
    *, watch: bool, cron: str | None, run_at: str | None, time_zone: str | None, misfire: str | None
) -> None:
    """Options that only make sense with others, or without them."""
    if cron is not None and watch:
        raise InputError("--watch: a schedule has no job to watch yet; leave out --watch or --cron")
    if cron is not None and run_at is not None:
        raise InputError("--run-at: --cron says when to run; give one of them")
    if time_zone is not None and cron is None and run_at is None:
        raise InputError("--time-zone: belongs to --cron or --run-at; give one of them")
    if misfire is not None and cron is None:
        raise InputError("--misfire: belongs to --cron; give it too")


def _set_stages(spec: dict[str, Any], stages: list[str] | None, params: list[str] | None, pool: str | None) -> None:
    from piecework.jobfile import parse_value

    if stages:
        spec["stages"] = [_stage(text) for text in stages]
    listed = spec.get("stages")
    known = [stage for stage in listed if isinstance(stage, dict)] if isinstance(listed, list) else []
    for key, value in parse_pairs("--param", params).items():
        stage, name = _find_param(known, key)
        stage["params"] = mapping_of(stage, "params") | {name: parse_value(value)}
    for stage in known:
        set_fields(stage, pool=pool)


def _stage(text: str) -> dict[str, Any]:
    name, separator, processor = text.rpartition("=")
    return {"name": name, "processor": processor} if separator else {"processor": processor}


def _find_param(stages: list[dict[str, Any]], key: str) -> tuple[dict[str, Any], str]:
    """The stage and the name of the parameter that `--param key=…` means; raises InputError."""
    prefix, separator, name = key.partition(".")
    if separator:
        for number, stage in enumerate(stages):
            if prefix in (stage.get("name"), str(number)):
                return stage, name
    if len(stages) == 1:
        return stages[0], key
    if not stages:
        raise InputError(f"--param: {key!r} belongs to no stage; give a --stage or a job file")
    names = ", ".join(str(stage.get("name", number)) for number, stage in enumerate(stages))
    raise InputError(f"--param: {key!r} could be of several stages; write STAGE.{key}=… with one of: {names}")


def _merge(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    kind, _, rest = text.partition(":")
    match kind, rest:
        case (("none" | "concat"), ""):
            return {"type": kind}
        case "concat", filename:
            return {"type": kind, "filename": filename}
        case "reduce", processor if processor:
            return {"type": kind, "processor": processor}
    raise InputError(f"--merge: {text!r} is no merge; write none, concat, concat:FILENAME or reduce:PROCESSOR")


def _run_at(text: str | None, time_zone: str | None) -> str | None:
    """ISO 8601 with an offset; a time without one is in `time_zone`, or local."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--run-at: {text!r} is not a time; write 2026-01-31T17:00 or 2026-01-31T17:00Z") from error
    if time.tzinfo is None and time_zone is None:
        return time.astimezone().isoformat()
    if time.tzinfo is None and time_zone is not None:
        try:
            time = time.replace(tzinfo=ZoneInfo(time_zone))
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise InputError(f"--time-zone: {time_zone!r} is not an IANA time zone; write Europe/Berlin") from error
    return time.isoformat()


def register(app: typer.Typer) -> None:
    command(app, "submit")(submit)
