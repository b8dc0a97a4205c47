"""`piecework alerts`: who is told when jobs fail or are late."""

import time
from typing import Annotated, Any, cast
from uuid import UUID

import typer

from piecework.cli import exits, names, refs
from piecework.cli.options import All, Limit, Since
from piecework.cli.output import newer
from piecework.cli.session import Session, command, group, parse_pairs
from piecework.errors import InputError, NotFound
from piecework.shapes import (
    Alert,
    AlertMessage,
    Condition,
    Conditions,
    CreatedAlert,
    DeliveryState,
    Incident,
    QuietHours,
    Receiver,
)

AlertName = Annotated[str, refs.ALERT_NAME.argument(), refs.ALERT_NAME]
On = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="failed, late=6h, not_started=30m, ran_over=4h, slowed=2, rejects=100, records, no_workers=10m or "
        "trigger_failed; repeatable.",
    ),
]
Webhook = Annotated[str | None, typer.Option(metavar="URL", help="Tell it by signed JSON (Standard Webhooks).")]
Slack = Annotated[str | None, typer.Option(metavar="URL", help="Tell an incoming webhook of Slack.")]
Teams = Annotated[str | None, typer.Option(metavar="URL", help="Tell a workflow's webhook of Microsoft Teams.")]
Email = Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="Tell by mail; repeatable.")]
Sns = Annotated[str | None, typer.Option(metavar="ARN", help="Tell a topic of SNS.")]
OfJob = Annotated[UUID | None, refs.JOB.option("--job", help="Only this job."), refs.JOB]
JobName = Annotated[str | None, typer.Option(metavar="NAME", help="Only jobs of this name.")]
Label = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label; repeatable.")]
Schedule = Annotated[
    str | None, typer.Option(metavar="NAME", autocompletion=names.schedules, help="Only runs of this schedule.")
]
Pool = Annotated[str | None, typer.Option(metavar="NAME", help="Only jobs with a stage in this pool.")]
Repeat = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Tell what lasts or comes back again after this; or never.")
]
Quiet = Annotated[
    str | None,
    typer.Option(metavar="HH:MM-HH:MM", help="Hours in which it waits, to tell all in a summary; or none."),
]
TimeZone = Annotated[str, typer.Option(help="IANA time zone of the quiet hours.")]

TRIAL_SECONDS = 60.0  # a scheduler tells within seconds

_FLAGS = ("failed", "records", "trigger_failed")
_NUMBERS = {"slowed": float, "rejects": int}


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    on: On = None,
    webhook: Webhook = None,
    slack: Slack = None,
    teams: Teams = None,
    email: Email = None,
    sns: Sns = None,
    job: OfJob = None,
    job_name: JobName = None,
    label: Label = None,
    schedule: Schedule = None,
    pool: Pool = None,
    repeat: Repeat = "24h",
    quiet_hours: Quiet = None,
    time_zone: TimeZone = "UTC",
    urgent: Annotated[bool, typer.Option("--urgent", help="Tell in quiet hours, too.")] = False,
) -> None:
    """Tell somebody when jobs fail or are late, and when that is over. Without --on: when they fail."""
    to = _receiver(webhook, slack, teams, email, sns)
    if to is None:
        raise InputError("say who is told: --webhook, --slack, --teams, --email or --sns")
    alert = session.client.create_alert(
        name,
        _conditions(on or ["failed"]),
        to,
        job_id=job,
        job_name=job_name,
        labels=parse_pairs("--label", label),
        schedule=schedule,
        pool=pool,
        repeat_seconds=_repeat(repeat),
        quiet=_quiet(quiet_hours, time_zone),
        urgent=urgent,
    )
    session.show(alert, lambda alert: _show_new(session, alert))


def _receiver(
    webhook: str | None, slack: str | None, teams: str | None, email: list[str] | None, sns: str | None
) -> Receiver | None:
    urls = {"webhook": webhook, "slack": slack, "teams": teams}
    given: list[dict[str, Any]] = [{"type": type_, "url": url} for type_, url in urls.items() if url is not None]
    given += [{"type": "email", "addresses": email}] if email else []
    given += [{"type": "sns", "topic_arn": sns}] if sns is not None else []
    if len(given) > 1:
        raise InputError("an alert has one receiver; make another alert for the other one")
    return cast("Receiver", given[0]) if given else None


def _conditions(texts: list[str]) -> Conditions:
    """`failed` is true, `late=6h` a duration, `slowed=2` a number; the API checks them."""
    conditions: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not equals and name not in _FLAGS:
            raise InputError(f"--on {text}: write {name}=LIMIT, such as late=6h")
        if equals and name in _FLAGS:
            raise InputError(f"--on {text}: {name} takes no value")
        try:
            conditions[name] = _NUMBERS.get(name, str)(value) if equals else True
        except ValueError as error:
            raise InputError(f"--on {text}: {value!r} is not a number") from error
    return cast("Conditions", conditions)


def _repeat(text: str | None) -> str | None:
    return None if text == "never" else text


def _quiet(text: str | None, time_zone: str) -> QuietHours | None:
    if text is None or text == "none":
        return None
    begin, dash, end = text.partition("-")
    if not dash:
        raise InputError(f"--quiet-hours {text}: write two times, such as 22:00-07:00")
    return {"begin": begin, "end": end, "time_zone": time_zone}


def _show_new(session: Session, alert: CreatedAlert) -> None:
    from piecework.display import facts

    facts(session.out, [("alert", alert["alert_id"]), ("secret", alert.get("secret"))])
    if alert.get("secret"):
        session.note("the secret is shown only now")


def list_alerts(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List alerts."""
    listing = session.client.list_alerts()
    session.show_list(listing, everything, limit, lambda alerts: _show_list(session, alerts))


def _show_list(session: Session, alerts: list[Alert]) -> None:
    from piecework.display import table

    table(
        session.out,
        ["ALERT_ID", "~NAME", "~ON", "~?OF", "~TO", ">OPEN", "?LAST MESSAGE", "~?ERROR"],
        (
            (
                alert["alert_id"],
                alert["name"],
                _describe(alert["on"]),
                _scope(alert),
                f"{alert['to']['type']} {alert['to']['address']}",
                alert["open_incidents"],
                "paused" if alert["paused"] else alert["last_message"] or "",
                alert["last_error"] or "",
            )
            for alert in alerts
        ),
    )


def _describe(conditions: Conditions) -> str:
    from piecework.display import duration

    said = []
    for name, value in conditions.items():
        if value is True:
            said.append(name)
        elif value is not None and value is not False:
            is_time = name not in _NUMBERS and isinstance(value, int | float)
            said.append(f"{name}={duration(float(cast('float', value))) if is_time else value}")
    return ", ".join(said)


def _scope(alert: Alert) -> str:
    fields = (("job", "job_id"), ("name", "job_name"), ("schedule", "schedule"), ("pool", "pool"))
    of = [f"{word} {alert[field]}" for word, field in fields if alert[field]]  # type: ignore[literal-required]
    return ", ".join([*of, *(f"{key}={value}" for key, value in alert["labels"].items())])


def _find(session: Session, name: str) -> Alert:
    """The alert of this name, or of this id."""
    found = session.client.list_alerts(name=name).page(1)["items"]
    return found[0] if found else session.client.get_alert(_id(name))


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound(404, f"there is no alert named {text!r}; `piecework alerts` lists them") from error


def show(session: Session, alert: AlertName) -> None:
    """Show an alert."""
    session.show(_find(session, alert), lambda alert: _show(session, alert))


def _show(session: Session, alert: Alert) -> None:
    from piecework.display import duration, facts, moment

    now, quiet = session.client.now(), alert["quiet"]
    repeat = alert["repeat_seconds"]
    facts(
        session.out,
        [
            ("alert", alert["alert_id"]),
            ("name", alert["name"]),
            ("on", _describe(alert["on"])),
            ("of", _scope(alert) or "all jobs"),
            ("to", f"{alert['to']['type']} {alert['to']['address']}"),
            ("repeats", "never" if repeat is None else f"after {duration(repeat)}"),
            ("quiet", quiet and f"{quiet['begin']}-{quiet['end']} in {quiet.get('time_zone', 'UTC')}"),
            ("urgent", "yes" if alert["urgent"] else None),
            ("paused", "yes" if alert["paused"] else None),
            ("open incidents", alert["open_incidents"]),
            ("last message", alert["last_message"]),
            ("error", alert["last_error"]),
            ("created", moment(alert["created_at"], now)),
            ("owner", alert["created_by"]),
        ],
    )


def change(
    session: Session,
    alert: AlertName,
    on: On = None,
    webhook: Webhook = None,
    slack: Slack = None,
    teams: Teams = None,
    email: Email = None,
    sns: Sns = None,
    job_name: JobName = None,
    label: Label = None,
    schedule: Schedule = None,
    pool: Pool = None,
    repeat: Repeat = None,
    quiet_hours: Quiet = None,
    time_zone: TimeZone = "UTC",
) -> None:
    """Change what is given, and leave the rest. An empty text takes a restriction away: --pool ''."""
    to = _receiver(webhook, slack, teams, email, sns)
    given: dict[str, Any] = {} if on is None else {"on": _conditions(on)}
    given |= {} if to is None else {"to": to}
    scope = {"job_name": job_name, "schedule": schedule, "pool": pool}
    given |= {name: value or None for name, value in scope.items() if value is not None}
    given |= {} if label is None else {"labels": parse_pairs("--label", [pair for pair in label if pair])}
    given |= {} if repeat is None else {"repeat_seconds": _repeat(repeat)}
    given |= {} if quiet_hours is None else {"quiet": _quiet(quiet_hours, time_zone)}
    if not given:
        raise InputError("say what is to change, such as --on failed")
    changed = session.client.change_alert(_find(session, alert)["alert_id"], **given)
    session.show(changed, lambda changed: _show_new(session, changed))


def pause(session: Session, alert: AlertName) -> None:
    """Look at nothing and tell nothing, until resumed."""
    changed = session.client.change_alert(_find(session, alert)["alert_id"], paused=True)
    session.show(changed, lambda changed: print(f"{changed['name']} paused"))


def resume(session: Session, alert: AlertName) -> None:
    """Look and tell again."""
    changed = session.client.change_alert(_find(session, alert)["alert_id"], paused=False)
    session.show(changed, lambda changed: print(f"{changed['name']} active"))


def delete(session: Session, alert: AlertName) -> None:
    """Tell nothing more."""
    session.client.delete_alert(_find(session, alert)["alert_id"])
    session.show_done(f"deleted {alert}")


def test(session: Session, alert: AlertName) -> None:
    """Send a trial message, and say whether it arrived."""
    alert_id = _find(session, alert)["alert_id"]
    message = session.client.test_alert(alert_id)
    deadline = time.monotonic() + TRIAL_SECONDS
    while message["state"] == "pending" and not message["error"] and time.monotonic() < deadline:
        time.sleep(0.5)
        latest = session.client.list_alert_messages(alert_id).page(50)["items"]
        message = next((each for each in latest if each["message_id"] == message["message_id"]), message)
    session.show(message, lambda message: print(_outcome(message)))
    if message["state"] != "delivered":
        raise typer.Exit(exits.NO_SERVICE)


def _outcome(message: AlertMessage) -> str:
    if message["state"] == "delivered":
        return f"delivered, but {message['error']}" if message["error"] else "delivered"
    return f"not delivered: {message['error'] or 'no scheduler has tried it yet; is one running?'}"


def list_messages(
    session: Session,
    alert: AlertName,
    state: Annotated[DeliveryState | None, typer.Option(help="Only in this state.")] = None,
    since: Since = None,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List what was told, newest first, and whether it arrived."""
    listing = session.client.list_alert_messages(_find(session, alert)["alert_id"], state=state)
    session.show_list(newer(listing, since), everything, limit, lambda messages: _show_messages(session, messages))


def _show_messages(session: Session, messages: list[AlertMessage]) -> None:
    from piecework import display

    now = session.client.now()
    display.table(
        session.out,
        ["CREATED", "EVENT", "~TITLE", "STATE", ">?TRIES", "~?ERROR"],
        (
            (
                display.relative(message["created_at"], now),
                message["event"],
                message["payload"]["data"]["title"],
                display.state(message["state"]),
                message["tries"],
                message["error"] or "",
            )
            for message in messages
        ),
    )


def list_incidents(
    session: Session,
    alert: AlertName,
    condition: Annotated[Condition | None, typer.Option(help="Only of this condition.")] = None,
    is_open: Annotated[bool | None, typer.Option("--open/--over", help="Only what holds now, or what is over.")] = None,
    since: Since = None,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List what was found, newest first."""
    listing = session.client.list_alert_incidents(_find(session, alert)["alert_id"], condition=condition, open=is_open)
    listing = newer(listing, since, "found_at")
    session.show_list(listing, everything, limit, lambda incidents: _show_incidents(session, incidents))


def _show_incidents(session: Session, incidents: list[Incident]) -> None:
    from piecework.display import relative, table

    now = session.client.now()
    table(
        session.out,
        ["FOUND", "CONDITION", "~SUBJECT", ">TIMES", "?TOLD", "?OVER", "~MESSAGE"],
        (
            (
                relative(incident["found_at"], now),
                incident["condition"],
                f"{incident['subject_kind']} {incident['name']}",
                incident["times"],
                relative(incident["told_at"], now),
                relative(incident["over_at"], now),
                incident["message"],
            )
            for incident in incidents
        ),
    )


def register(app: typer.Typer) -> None:
    alerts = group(app, "alerts", "Who is told when jobs fail or are late.")
    command(alerts, "create")(create)
    command(alerts, "list")(list_alerts)
    command(alerts, "show")(show)
    command(alerts, "change")(change)
    command(alerts, "pause")(pause)
    command(alerts, "resume")(resume)
    command(alerts, "delete")(delete)
    command(alerts, "test")(test)
    command(alerts, "messages")(list_messages)
    command(alerts, "incidents")(list_incidents)
