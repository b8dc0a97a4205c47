"""`piecework schedules`: recurring submissions."""

from pathlib import Path
from typing import Annotated

import typer

from piecework.cli.objects import upload_inputs
from piecework.cli.options import All, CreatedBy, Limit, Mine, ScheduleId
from piecework.cli.session import Session, command, group
from piecework.shapes import Misfire, Schedule


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


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to submit; - reads standard input.")],
    cron: Annotated[str, typer.Option(help="Minute hour day month weekday; '0 6 L * *' is 6:00 at month end.")],
    time_zone: Annotated[str, typer.Option(help="IANA time zone of the cron times.")] = "UTC",
    misfire: Annotated[Misfire, typer.Option(help="What to do about missed runs.")] = "run_once",
) -> None:
    """Submit a job file again and again, and print the schedule's id."""
    from piecework.jobfile import read_mapping

    spec = read_mapping(file)
    upload_inputs(session, spec, file.parent)
    schedule = session.client.create_schedule(name, cron, spec, time_zone=time_zone, misfire=misfire)
    session.show(schedule, lambda schedule: print(schedule["schedule_id"]))


def show(session: Session, schedule_id: ScheduleId) -> None:
    """Show a schedule and its next runs."""
    session.show(session.client.get_schedule(schedule_id), lambda schedule: _show(session, schedule))


def _show(session: Session, schedule: Schedule) -> None:
    from piecework.display import facts, moment

    now = session.client.now()
    facts(
        session.out,
        [
            ("schedule", schedule["schedule_id"]),
            ("name", schedule["name"]),
            ("cron", f"{schedule['cron']} in {schedule['time_zone']}"),
            ("misfire", schedule["misfire"]),
            ("state", "paused" if schedule["paused"] else "active"),
            *(("next run", moment(time, now)) for time in schedule["upcoming"]),
            ("last run", moment(schedule["last_run_at"], now)),
            ("last job", schedule["last_job_id"]),
            ("skipped runs", schedule.get("runs_skipped") or None),
            ("last skipped", moment(schedule.get("last_skipped_at"), now)),
            ("error", schedule["error"]),
            ("created", moment(schedule["created_at"], now)),
            ("owner", schedule.get("created_by")),
        ],
    )


def delete(session: Session, schedule_id: ScheduleId) -> None:
    """Delete a schedule; its jobs stay."""
    session.client.delete_schedule(schedule_id)
    session.show_done(f"deleted {schedule_id}")


def pause(session: Session, schedule_id: ScheduleId) -> None:
    """Submit nothing until resumed."""
    schedule = session.client.pause_schedule(schedule_id)
    session.show(schedule, lambda schedule: print(f"{schedule['schedule_id']} paused"))


def resume(session: Session, schedule_id: ScheduleId) -> None:
    """Submit again."""
    schedule = session.client.resume_schedule(schedule_id)
    session.show(schedule, lambda schedule: print(f"{schedule['schedule_id']} active"))


def register(app: typer.Typer) -> None:
    schedules = group(app, "schedules", "Recurring submissions.")
    command(schedules, "list")(list_schedules)
    command(schedules, "create")(create)
    command(schedules, "show")(show)
    command(schedules, "delete")(delete)
    command(schedules, "pause")(pause)
    command(schedules, "resume")(resume)
