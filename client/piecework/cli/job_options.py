"""The options of `piecework submit` beside the input: the job, its stages, its merge, and when it runs."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from piecework.cli import names, refs
from piecework.cli.job_file import given, mapping_in, option_of, parse_uris, parse_values, parsed
from piecework.cli.session import parse_pairs
from piecework.errors import InputError
from piecework.shapes import Misfire


@dataclass(frozen=True)
class JobOptions:
    """What is said of a job as a whole; the options are its fields."""

    panel: ClassVar[str] = "Job"

    name: Annotated[str | None, typer.Option(help="Name of the job (or schedule).")] = None
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label; repeatable.")] = None
    priority: Annotated[int | None, typer.Option(help="-100..100; higher runs first.")] = None
    share: Annotated[str | None, typer.Option(help="Jobs of one share divide its part of a pool.")] = None
    results: Annotated[
        str | None, typer.Option(metavar="URI", help="Prefix of your own for the results, such as s3://bucket/prefix/.")
    ] = None
    output_queue: Annotated[
        str | None, typer.Option(metavar="URL", help="SQS queue that is told of each succeeded task and the job's end.")
    ] = None
    reuse: Annotated[
        bool | None,
        typer.Option(
            "--reuse/--no-reuse", help="Take outputs of earlier jobs whose inputs, code and params are the same."
        ),
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=DURATION",
            help="How long from its end interim, results or records are kept, such as records=90d or results=forever; "
            "repeatable.",
        ),
    ] = None
    after: Annotated[
        list[str] | None,
        refs.JOB_AND_MORE.option(
            metavar="JOB[:any|:index]",
            help="Start when this job has succeeded, or has ended in any way (:any), or each task when that job's task "
            "of the same index has succeeded (:index); repeatable, for all of them.",
        ),
        refs.JOB_AND_MORE,
    ] = None
    after_failure: Annotated[
        Literal["fail", "skip"] | None,
        typer.Option(help="What becomes of this job if one of --after does not succeed; fail unless you say skip."),
    ] = None

    def change(self, spec: dict[str, Any]) -> None:
        fields = given(asdict(self))
        labels = parse_pairs("--label", fields.pop("label", None))
        keep = parse_pairs("--keep", fields.pop("keep", None))
        if after := fields.pop("after", None):
            fields["after"] = [_predecessor(text) for text in after]
        spec |= fields
        if keep:
            spec["keep"] = mapping_in(spec, "keep") | keep
        if labels:
            spec["labels"] = mapping_in(spec, "labels") | labels


def _predecessor(text: str) -> dict[str, Any]:
    """Raises InputError."""
    job_id, colon, condition = text.partition(":")
    if colon and condition not in ("succeeded", "any", "index"):
        fix = "JOB, JOB:any to start however that job ends, or JOB:index to follow it task by task"
        raise InputError(f"--after: {text!r}: write {fix}")
    if condition == "index":
        return {"job_id": job_id, "by_index": True}
    return {"job_id": job_id, **({"condition": condition} if colon else {})}


def _of_stages(metavar: str, help: str) -> Any:
    return typer.Option(metavar=f"[STAGE=]{metavar}", help=help)


@dataclass(frozen=True)
class StageOptions:
    """The stages and what is said of them: of all, or of one that is named in front of the value."""

    panel: ClassVar[str] = "Stages"

    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            "--processor",
            metavar="[NAME=]PROCESSOR[@VERSION]",
            autocompletion=names.processors,
            help="A stage; repeatable, in order.",
        ),
    ] = None
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STAGE.]KEY=VALUE",
            help="Parameter (a YAML value) of a stage, by name or number; of the only one if absent.",
        ),
    ] = None
    stage_input: Annotated[
        list[str] | None,
        typer.Option(metavar="[STAGE.]NAME=URI", help="Object that the stage's processor declares by this name."),
    ] = None
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STAGE.]NAME=TYPE",
            help="Type of a column of CSV, JSON or XML: text, int64, float64, bool, date, timestamp, decimal(P,S) or "
            "json.",
        ),
    ] = None
    pool: Annotated[list[str] | None, _of_stages("POOL", "Pool whose nodes run the tasks.")] = None
    pools: Annotated[list[str] | None, _of_stages("POOL,POOL", "Pools in order of preference.")] = None
    next_pool_after_seconds: Annotated[
        list[str] | None, _of_stages("DURATION", "When a task that waits is for the next pool, too, such as 5m.")
    ] = None
    timeout_seconds: Annotated[list[str] | None, _of_stages("DURATION", "Time limit of an attempt, such as 2h.")] = None
    memory_bytes: Annotated[list[str] | None, _of_stages("SIZE", "Memory limit of an attempt, such as 2GiB.")] = None
    cpus: Annotated[list[str] | None, _of_stages("N", "Cores that each task needs, such as 4 or 0.5.")] = None
    memory: Annotated[list[str] | None, _of_stages("SIZE", "Memory that each task needs, such as 16GiB.")] = None
    gpus: Annotated[list[str] | None, _of_stages("N", "GPUs that each task needs for itself.")] = None
    disk: Annotated[list[str] | None, _of_stages("SIZE", "Disk space that each task needs, such as 100GiB.")] = None
    max_attempts: Annotated[list[str] | None, _of_stages("N", "How often a failing task is tried.")] = None
    backoff_seconds: Annotated[list[str] | None, _of_stages("DURATION", "Pause before the second try, such as 5s.")] = (
        None
    )
    backoff_max_seconds: Annotated[list[str] | None, _of_stages("DURATION", "Longest pause between tries.")] = None
    running_max: Annotated[list[str] | None, _of_stages("N", "Tasks that may run at the same time.")] = None
    tolerated_failures: Annotated[
        list[str] | None, _of_stages("N|N%", "Failed tasks, also in percent, that do not fail the stage.")
    ] = None
    rejects_max: Annotated[list[str] | None, _of_stages("N", "Rejected records that a task may have.")] = None
    fan_out: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Each item that the stage yields is a task of the next.")
    ] = None
    barrier: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="The stage starts when the one before has ended.")
    ] = None

    def change(self, spec: dict[str, Any]) -> None:
        if self.stage:
            spec["stages"] = [_stage(text) for text in self.stage]
        listed = spec.get("stages")
        stages = [stage for stage in listed if isinstance(stage, dict)] if isinstance(listed, list) else []
        _set_by_key(stages, "params", "--param", parse_values("--param", self.param))
        _set_by_key(stages, "inputs", "--stage-input", parse_uris("--stage-input", self.stage_input))
        _set_by_key(stages, "columns", "--column", parse_values("--column", self.column))
        for field, parse in _VALUES.items():
            for option, stage, value in self._values(stages, field):
                stage[field] = parsed(option, parse, value)
        for field, parse in _RETRY.items():
            for option, stage, value in self._values(stages, field):
                stage["retry"] = mapping_in(stage, "retry") | {field: parsed(option, parse, value)}
        for field in _FLAGS:
            for name in getattr(self, field) or []:
                _named(stages, option_of(field), name)[field] = True

    def _values(self, stages: list[dict[str, Any]], field: str) -> Iterator[tuple[str, dict[str, Any], str]]:
        """The option, a stage and the value that it gets, for each that is meant."""
        option = option_of(field)
        for text in getattr(self, field) or []:
            name, _, value = text.rpartition("=")
            for stage in [_named(stages, option, name)] if name else stages:
                yield option, stage, value


def _stage(text: str) -> dict[str, Any]:
    name, separator, processor = text.rpartition("=")
    return {"name": name, "processor": processor} if separator else {"processor": processor}


def _find(stages: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The stage of this name or number."""
    return next((one for number, one in enumerate(stages) if name in (one.get("name"), str(number))), None)


def _named(stages: list[dict[str, Any]], option: str, name: str) -> dict[str, Any]:
    """The stage of this name or number. Raises InputError."""
    if (stage := _find(stages, name)) is None:
        known = f"write one of: {_names(stages)}" if stages else "give a --stage or a job file"
        raise InputError(f"{option}: there is no stage {name!r}; {known}")
    return stage


def _names(stages: list[dict[str, Any]]) -> str:
    return ", ".join(str(stage.get("name", number)) for number, stage in enumerate(stages))


def _set_by_key(stages: list[dict[str, Any]], field: str, option: str, values: dict[str, Any]) -> None:
    """Set `[STAGE.]KEY` in a mapping of the stage, which may be left out if it is the only one. Raises InputError."""
    for key, value in values.items():
        name, _, rest = key.partition(".")
        if rest and (named := _find(stages, name)) is not None:
            stage, key = named, rest
        elif len(stages) == 1:
            [stage] = stages
        elif not stages:
            raise InputError(f"{option}: {key!r} belongs to no stage; give a --stage or a job file")
        else:
            names = _names(stages)
            raise InputError(f"{option}: {key!r} could be of several stages; write STAGE.{key}=… with one of: {names}")
        stage[field] = mapping_in(stage, field) | {key: value}


def _number(text: str) -> int | float:
    from piecework.jobfile import parse_value

    value = parse_value(text)
    if type(value) not in (int, float):
        raise ValueError(f"{text!r} is not a number")
    return value  # type: ignore[no-any-return]


def _bytes(text: str) -> int:
    from piecework.units import parse_size

    return parse_size(text)


def _seconds(text: str) -> int | float:
    from piecework.units import parse_duration

    return parse_duration(text)


_VALUES: dict[str, Callable[[str], Any]] = {
    "pool": str,
    "pools": lambda text: [name.strip() for name in text.split(",")],
    "next_pool_after_seconds": _seconds,
    "timeout_seconds": _seconds,
    "memory_bytes": _bytes,
    "cpus": _number,
    "memory": _bytes,
    "gpus": _number,
    "disk": _bytes,
    "running_max": _number,
    "tolerated_failures": lambda text: text if text.endswith("%") else _number(text),
    "rejects_max": _number,
}
_RETRY = {"max_attempts": _number, "backoff_seconds": _seconds, "backoff_max_seconds": _seconds}
_FLAGS = ("fan_out", "barrier")


@dataclass(frozen=True)
class MergeOptions:
    """How the results become one."""

    panel: ClassVar[str] = "Merge"

    merge: Annotated[
        str | None,
        typer.Option(
            metavar="none|concat[:FILENAME]|parquet[:FILENAME]|reduce:PROCESSOR[:FILENAME]",
            help="Leave the outputs as they are, join them, or have a processor make one of all.",
        ),
    ] = None
    merge_lines: Annotated[
        bool | None,
        typer.Option("--merge-lines/--no-merge-lines", help="Whether the outputs of a concat are lines, and stay so."),
    ] = None
    merge_param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Parameter (a YAML value) of a reduce; repeatable.")
    ] = None
    merge_input: Annotated[
        list[str] | None, typer.Option(metavar="NAME=URI", help="Object that the processor of a reduce declares.")
    ] = None
    fan_in: Annotated[int | None, typer.Option(metavar="N", help="Outputs per task of a reduce.")] = None

    def change(self, spec: dict[str, Any]) -> None:
        if self.merge is not None:
            spec["merge"] = _merge(self.merge)
        if self.merge_lines is not None:
            if mapping_in(spec, "merge").get("type") != "concat":
                raise InputError("--merge-lines: belongs to a concat; give --merge concat")
            spec["merge"] = {**spec["merge"], "lines": self.merge_lines}
        if not given({"params": self.merge_param, "inputs": self.merge_input, "fan_in": self.fan_in}):
            return
        merge = dict(mapping_in(spec, "merge"))
        if merge.get("type") != "reduce":
            raise InputError(
                "--merge-param, --merge-input, --fan-in: belong to a reduce; give --merge reduce:PROCESSOR"
            )
        if self.merge_param:
            merge["params"] = mapping_in(merge, "params") | parse_values("--merge-param", self.merge_param)
        if self.merge_input:
            merge["inputs"] = mapping_in(merge, "inputs") | parse_uris("--merge-input", self.merge_input)
        spec["merge"] = merge | given({"fan_in": self.fan_in})


def _merge(text: str) -> dict[str, Any]:
    match text.split(":"):
        case ["none" | "concat" | "parquet" as kind]:
            return {"type": kind}
        case ["concat" | "parquet" as kind, filename] if filename:
            return {"type": kind, "filename": filename}
        case ["reduce", processor] if processor:
            return {"type": "reduce", "processor": processor}
        case ["reduce", processor, filename] if processor and filename:
            return {"type": "reduce", "processor": processor, "filename": filename}
    raise InputError(
        f"--merge: {text!r} is not a merge; write none, concat, concat:FILENAME, parquet, parquet:FILENAME, "
        "reduce:PROCESSOR or reduce:PROCESSOR:FILENAME"
    )


@dataclass(frozen=True)
class WhenOptions:
    """When a job runs: at once, later, or again and again."""

    panel: ClassVar[str] = "When"

    run_at: Annotated[str | None, typer.Option(metavar="TIME", help="Start no earlier, such as 2026-01-31T17:00.")] = (
        None
    )
    cron: Annotated[str | None, typer.Option(help="Make a schedule, such as '0 6 L * *', instead of a job.")] = None
    time_zone: Annotated[
        str | None, typer.Option(help="Of --cron (default UTC) and of a --run-at without offset (default local).")
    ] = None
    misfire: Annotated[Misfire | None, typer.Option(help="What to do about missed runs of a schedule.")] = None

    def check(self, watch: bool) -> None:
        """Some options only make sense with others, or without them. Raises InputError."""
        if self.cron is not None and watch:
            raise InputError("--watch: a schedule has no job to watch yet; leave out --watch or --cron")
        if self.cron is not None and self.run_at is not None:
            raise InputError("--run-at: --cron says when to run; give one of them")
        if self.time_zone is not None and self.cron is None and self.run_at is None:
            raise InputError("--time-zone: belongs to --cron or --run-at; give one of them")
        if self.misfire is not None and self.cron is None:
            raise InputError("--misfire: belongs to --cron; give it too")

    def change(self, spec: dict[str, Any]) -> None:
        if self.run_at is not None:
            spec["run_at"] = _time(self.run_at, self.time_zone)


def _time(text: str, time_zone: str | None) -> str:
    """ISO 8601 with an offset; a time without one is in `time_zone`, or local."""
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
