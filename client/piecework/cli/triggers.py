"""`piecework triggers`: queues whose messages submit jobs."""

from pathlib import Path
from typing import Annotated

import typer

from piecework.cli.job_file import name_after
from piecework.cli.options import All, CreatedBy, Limit, Mine, TriggerId
from piecework.cli.session import Session, command, group, parse_pairs
from piecework.shapes import Trigger


def list_triggers(
    session: Session, created_by: CreatedBy = None, mine: Mine = False, everything: All = False, limit: Limit = 50
) -> None:
    """List triggers, newest first."""
    listing = session.client.list_triggers(created_by=created_by, mine=mine)
    session.show_list(listing, everything, limit, lambda triggers: _show_list(session, triggers))


def _show_list(session: Session, triggers: list[Trigger]) -> None:
    from piecework.display import relative, table

    now = session.client.now()
    table(
        session.out,
        ["TRIGGER_ID", "~NAME", "~QUEUE", "?STATE", "LAST MESSAGE", "?LAST ERROR", "~?ERROR"],
        (
            (
                trigger["trigger_id"],
                trigger["name"],
                trigger["queue_url"].rpartition("/")[2],
                _state(trigger),
                relative(trigger["last_message_at"], now),
                relative(trigger["last_error_at"], now),
                trigger["last_error"] or "",
            )
            for trigger in triggers
        ),
    )


def _state(trigger: Trigger) -> str:
    if trigger["paused"]:
        return "paused"
    return "unreadable" if trigger.get("unreadable_since") else "active"


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="JOB.yaml", help="What to submit; '{uri}' in it is the new object, '{message.x}' a message's field."
        ),
    ],
    queue: Annotated[str, typer.Option(metavar="URL", help="The SQS queue; all of its messages are received.")],
    prefix: Annotated[
        str, typer.Option(metavar="S3_URI", help="Only created objects whose URI begins so, such as s3://in/claims/.")
    ] = "",
    suffix: Annotated[str, typer.Option(help="Only created objects whose URI ends so, such as .csv.")] = "",
    match: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=VALUE", help="Only messages with this, such as type=job.succeeded; repeatable."),
    ] = None,
) -> None:
    """Submit a job for each message of a queue, and print the trigger's id."""
    from piecework.jobfile import parse_value, read_mapping

    fields = {field: parse_value(value) for field, value in parse_pairs("--match", match).items()}
    job = name_after(read_mapping(file), file)
    trigger = session.client.create_trigger(name, queue, job, prefix=prefix, suffix=suffix, match=fields)
    session.show(trigger, lambda trigger: print(trigger["trigger_id"]))


def show(session: Session, trigger_id: TriggerId) -> None:
    """Show a trigger."""
    session.show(session.client.get_trigger(trigger_id), lambda trigger: _show(session, trigger))


def _show(session: Session, trigger: Trigger) -> None:
    from piecework.display import duration, facts, moment

    now = session.client.now()
    facts(
        session.out,
        [
            ("trigger", trigger["trigger_id"]),
            ("name", trigger["name"]),
            ("queue", trigger["queue_url"]),
            ("prefix", trigger["prefix"] or None),
            ("suffix", trigger["suffix"] or None),
            *(("match", f"{field}={value}") for field, value in trigger["match"].items()),
            ("state", _state(trigger)),
            ("unreadable since", moment(trigger.get("unreadable_since"), now)),
            ("last message", moment(trigger["last_message_at"], now)),
            ("it had waited", duration(trigger.get("lag_seconds"))),
            ("last job", trigger["last_job_id"]),
            ("last error", moment(trigger["last_error_at"], now)),
            ("error", trigger["last_error"]),
            ("created", moment(trigger["created_at"], now)),
            ("owner", trigger.get("created_by")),
        ],
    )


def delete(session: Session, trigger_id: TriggerId) -> None:
    """Delete a trigger; its jobs stay."""
    session.client.delete_trigger(trigger_id)
    session.show_done(f"deleted {trigger_id}")


def pause(session: Session, trigger_id: TriggerId) -> None:
    """Pause a trigger: messages stay in its queue."""
    trigger = session.client.pause_trigger(trigger_id)
    session.show(trigger, lambda trigger: print(f"{trigger['trigger_id']} paused"))


def resume(session: Session, trigger_id: TriggerId) -> None:
    """Resume a paused trigger."""
    trigger = session.client.resume_trigger(trigger_id)
    session.show(trigger, lambda trigger: print(f"{trigger['trigger_id']} active"))


def register(app: typer.Typer) -> None:
    triggers = group(app, "triggers", "Queues whose messages submit jobs.")
    command(triggers, "list")(list_triggers)
    command(triggers, "create")(create)
    command(triggers, "show")(show)
    command(triggers, "delete")(delete)
    command(triggers, "pause")(pause)
    command(triggers, "resume")(resume)
