"""`piecework schedules`: recurring submissions."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from piecework.cli import refs
from piecework.cli.job_file import name_after
from piecework.cli.options import All, CreatedBy, Limit, Mine, Since
from piecework.cli.output import newer
from piecework.cli.session import Session, command, group
from piecework.errors import InputError
from piecework.shapes import Backfill, BusinessDays, Misfire, Overlap, Schedule, ScheduleRun

ScheduleName = Annotated[str, refs.SCHEDULE_NAME.argument(), refs.SCHEDULE_NAME]
OVERLAP_HELP = "What to do about a run while a job of the schedule has not ended."
NotOn = Annotated[
    list[str] | None,
    typer.Option(metavar="DAYS", help="Days on which not to run: 'L * *' (day month weekday) or holidays."),
]
InBusiness = Annotated[
    BusinessDays | None,
    typer.Option(help="What becomes of a run on a weekend or holiday: none, or it moves to that business day."),
]
Holidays = Annotated[Path | None, typer.Option(metavar="FILE.ics", help="Holidays, as an iCalendar file.")]
CRON_HELP = "Minute hour day month weekday; '0 6 L * *' is 6:00 at month end."


def list_schedules(
    session: Session, created_by: CreatedBy = None, mine: Mine = False, everything: All = False, limit: Limit = 50
) -> None:
    """List schedules, newest first."""
    listing = session.client.list_schedules(created_by=created_by, mine=mine)
    session.show_list(listing, everything, limit, lambda schedules: _show_list(session, schedules))


def _show_list(session: Session, schedules: list[Schedule]) -> None:
    from piecework.display import relative, table

    now = session.client.now()
    table(
        session.out,
        ["SCHEDULE_ID", "~NAME", "CRON", "?TIME ZONE", "NEXT RUN", ">?SKIPPED", "~?ERROR", "~?OWNER"],
        (
            (
                schedule["schedule_id"],
                schedule["name"],
                schedule["cron"],
                schedule["time_zone"],
                "paused" if schedule["paused"] else relative(schedule["next_run_at"], now),
                schedule.get("runs_skipped"),
                schedule["error"] or "",
                schedule.get("created_by"),
            )
            for schedule in schedules
        ),
    )


def read_job(spec: dict[str, Any], directory: Path) -> dict[str, Any]:
    """A schedule's job, as it is. Raises InputError for a local file, seen from `directory`: each run would read the
    copy of now."""
    from piecework.jobfile import local_paths

    for local in local_paths(spec, directory):
        raise InputError(
            f"{local.holder[local.field]}: a schedule can't read a file of this machine, since its runs come later: "
            "put the file of each run in S3, and name it there; if all runs shall read today's copy, name the URI that "
            f"`piecework upload {local.path}` prints"
        )
    return spec


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to submit; - reads standard input.")],
    cron: Annotated[str, typer.Option(help=CRON_HELP)],
    time_zone: Annotated[str, typer.Option(help="IANA time zone of the cron times.")] = "UTC",
    misfire: Annotated[Misfire, typer.Option(help="What to do about missed runs.")] = "run_once",
    overlap: Annotated[Overlap, typer.Option(help=OVERLAP_HELP)] = "allow",
    not_on: NotOn = None,
    business_days: InBusiness = None,
    holidays: Holidays = None,
) -> None:
    """Submit a job file again and again, and print the schedule's id."""
    from piecework.jobfile import read_mapping, read_text

    job = read_job(name_after(read_mapping(file), file), file.parent)
    schedule = session.client.create_schedule(
        name,
        cron,
        job,
        time_zone=time_zone,
        misfire=misfire,
        overlap=overlap,
        not_on=not_on or [],
        business_days=business_days,
        ical=read_text(holidays) if holidays else None,
    )
    session.show(schedule, lambda schedule: print(schedule["schedule_id"]))


def change(
    session: Session,
    schedule: ScheduleName,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    job: Annotated[Path | None, typer.Option(metavar="JOB.yaml", help="What to submit from now on.")] = None,
    cron: Annotated[str | None, typer.Option(help=CRON_HELP)] = None,
    time_zone: Annotated[str | None, typer.Option(help="IANA time zone of the cron times.")] = None,
    misfire: Annotated[Misfire | None, typer.Option(help="What to do about missed runs.")] = None,
    overlap: Annotated[Overlap | None, typer.Option(help=OVERLAP_HELP)] = None,
    not_on: NotOn = None,
    business_days: InBusiness = None,
    holidays: Holidays = None,
) -> None:
    """Change what is given of a schedule, and show it."""
    from piecework.jobfile import read_mapping, read_text

    spec: dict[str, Any] = {"name": name, "cron": cron, "time_zone": time_zone, "misfire": misfire, "overlap": overlap}
    spec |= {"not_on": not_on or None, "business_days": business_days}
    spec = {field: value for field, value in spec.items() if value is not None}
    if job is not None:
        spec["job"] = read_job(name_after(read_mapping(job), job), job.parent)
    if holidays is not None:
        spec["ical"] = read_text(holidays)
    if not spec:
        raise InputError("there is nothing to change: give --name, --job, --cron or another option")
    session.show(session.client.change_schedule(schedule, spec), lambda changed: _show(session, changed))


def show(session: Session, schedule: ScheduleName) -> None:
    """Show a schedule and its next runs."""
    session.show(session.client.get_schedule(schedule), lambda schedule: _show(session, schedule))


def _show(session: Session, schedule: Schedule) -> None:
    from piecework.display import facts, moment

    now = session.client.now()
    zone = schedule["time_zone"]
    facts(
        session.out,
        [
            ("schedule", schedule["schedule_id"]),
            ("name", schedule["name"]),
            ("cron", f"{schedule['cron']} in {zone}"),
            ("not on", ", ".join(schedule.get("not_on", []))),
            ("business days", schedule.get("business_days")),
            ("holidays", _span(schedule.get("holidays", []))),
            ("misfire", schedule["misfire"]),
            ("overlap", schedule.get("overlap")),
            ("state", "paused" if schedule["paused"] else "active"),
            ("paused", moment(schedule["paused_at"], now)),
            *(("next run", _moment_in(zone, time, now)) for time in schedule["upcoming"]),
            ("last run", _moment_in(zone, schedule["last_run_at"], now)),
            ("last job", schedule["last_job_id"]),
            ("skipped runs", schedule.get("runs_skipped") or None),
            ("last skipped", _moment_in(zone, schedule.get("last_skipped_at"), now)),
            ("error", schedule["error"]),
            ("created", moment(schedule["created_at"], now)),
            ("owner", schedule.get("created_by")),
        ],
    )


def _span(holidays: list[str]) -> str | None:
    return f"{len(holidays)} from {holidays[0]} to {holidays[-1]}" if holidays else None


def _moment_in(time_zone: str, time: str | None, now: datetime) -> str | None:
    """In the schedule's zone, which is named: `2026-01-31 06:00:00 CET (in 3 h)`."""
    from piecework.display import parse_time, relative

    if time is None:
        return None
    try:
        local = parse_time(time).astimezone(ZoneInfo(time_zone))
    except (ZoneInfoNotFoundError, ValueError):
        local = parse_time(time)
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({relative(time, now)})"


def _time(session: Session, schedule: str, option: str, text: str, *, end: bool = False) -> str:
    """ISO 8601 with an offset. A time without one is in the schedule's zone, a day is its start there, or its `end`."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{option}: {text!r} is not a time; write 2026-01-31, or 2026-01-31T06:00") from error
    if len(text) == len("2026-01-31") and end:
        time = time.replace(hour=23, minute=59, second=59)
    if time.tzinfo is None:
        zone = session.client.get_schedule(schedule)["time_zone"]
        try:
            time = time.replace(tzinfo=ZoneInfo(zone))
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise InputError(f"{option}: write an offset such as +01:00: {zone} is unknown here") from error
    return time.isoformat()


def run(
    session: Session,
    schedule: ScheduleName,
    scheduled_at: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="The time for which it counts, such as 2026-01-31T06:00."),
    ] = None,
) -> None:
    """Run a schedule now, and print the job's id. The clock goes on as before."""
    time = _time(session, schedule, "--for", scheduled_at) if scheduled_at else None
    run = session.client.run_schedule(schedule, scheduled_at=time)
    session.show(run, lambda run: print(run["job_id"] or f"waits for its turn: {run['scheduled_at']}"))


BackfillId = Annotated[UUID, refs.BACKFILL.argument(), refs.BACKFILL]


def backfill(
    session: Session,
    schedule: ScheduleName,
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="The first day or time, such as 2026-01-01.")],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="The last day or time, such as 2026-01-31.")],
    running_max: Annotated[int, typer.Option(min=1, max=100, help="Jobs that run at the same time.")] = 1,
) -> None:
    """Run a schedule for each of its past times in a range that has no job yet, and print the backfill's id.

    Days, and times without an offset, are those of the schedule's time zone.
    """
    times = (_time(session, schedule, "--from", since), _time(session, schedule, "--to", until, end=True))
    made = session.client.create_backfill(schedule, *times, running_max=running_max)

    def tell(made: Backfill) -> None:
        session.note(f"{made['runs']['waiting']} runs wait for their turns: piecework schedules runs {schedule}")
        print(made["backfill_id"])

    session.show(made, tell)


def list_backfills(
    session: Session, schedule: ScheduleName, since: Since = None, everything: All = False, limit: Limit = 50
) -> None:
    """List the backfills of a schedule, the latest first."""
    listing = newer(session.client.list_backfills(schedule), since)
    session.show_list(listing, everything, limit, lambda backfills: _show_backfills(session, backfills))


def _show_backfills(session: Session, backfills: list[Backfill]) -> None:
    from piecework.display import table

    table(
        session.out,
        ["BACKFILL_ID", "FROM", "TO", ">AT ONCE", ">WAITING", ">SUBMITTED", ">?SKIPPED", ">?REFUSED", "STATE", "?BY"],
        (
            (
                made["backfill_id"],
                made["since"],
                made["until"],
                made["running_max"],
                made["runs"]["waiting"],
                made["runs"]["submitted"],
                made["runs"]["skipped"],
                made["runs"]["refused"],
                "cancelled" if made["cancelled"] else "begun" if made["ended_at"] else "active",
                made["created_by"],
            )
            for made in backfills
        ),
    )


def cancel_backfill(session: Session, schedule: ScheduleName, backfill_id: BackfillId) -> None:
    """Skip those runs of a backfill that wait; its jobs go on."""
    cancelled = session.client.cancel_backfill(schedule, backfill_id)
    session.show(cancelled, lambda made: print(f"{made['backfill_id']}: {made['runs']['skipped']} runs are skipped"))


def skip(session: Session, schedule: ScheduleName) -> None:
    """Leave out the next run, and no other."""
    skipped = session.client.skip_next_run(schedule)
    now = session.client.now()

    def tell(schedule: Schedule) -> None:
        following = _moment_in(schedule["time_zone"], schedule["next_run_at"], now)
        print(f"{schedule['schedule_id']} runs next at {following}")

    session.show(skipped, tell)


def list_runs(
    session: Session, schedule: ScheduleName, since: Since = None, everything: All = False, limit: Limit = 50
) -> None:
    """List what became of a schedule's runs, the latest first."""
    listing = newer(session.client.list_schedule_runs(schedule), since, "scheduled_at")
    session.show_list(listing, everything, limit, lambda runs: _show_runs(session, runs))


def _show_runs(session: Session, runs: list[ScheduleRun]) -> None:
    from piecework.display import duration, relative, table

    now = session.client.now()
    table(
        session.out,
        ["SCHEDULED", "STATE", "~WHY", "JOB_ID", "JOB", ">?LATE", "?STARTED", "?ENDED", "?ORIGIN"],
        (
            (
                run["scheduled_at"],
                run["state"],
                run["error"] or run["reason"] or "",
                run["job_id"],
                run["job_state"],
                duration(run["late_seconds"]),
                relative(run["started_at"], now),
                relative(run["finished_at"], now),
                run["origin"],
            )
            for run in runs
        ),
    )


def delete(session: Session, schedule: ScheduleName) -> None:
    """Delete a schedule; its jobs stay."""
    session.client.delete_schedule(schedule)
    session.show_done(f"deleted {schedule}")


def pause(session: Session, schedule: ScheduleName) -> None:
    """Pause a schedule: nothing is submitted until it is resumed."""
    paused = session.client.pause_schedule(schedule)
    session.show(paused, lambda schedule: print(f"{schedule['schedule_id']} paused"))


def resume(session: Session, schedule: ScheduleName) -> None:
    """Resume a schedule with its next run."""
    resumed = session.client.resume_schedule(schedule)
    session.show(resumed, lambda schedule: print(f"{schedule['schedule_id']} active"))


def register(app: typer.Typer) -> None:
    schedules = group(app, "schedules", "Recurring submissions.")
    command(schedules, "list")(list_schedules)
    command(schedules, "create")(create)
    command(schedules, "show")(show)
    command(schedules, "change")(change)
    command(schedules, "run")(run)
    command(schedules, "runs")(list_runs)
    command(schedules, "skip")(skip)
    command(schedules, "backfill")(backfill)
    command(schedules, "backfills")(list_backfills)
    command(schedules, "cancel-backfill")(cancel_backfill)
    command(schedules, "pause")(pause)
    command(schedules, "resume")(resume)
    command(schedules, "delete")(delete)
