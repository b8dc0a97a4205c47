"""`piecework quotas` and `piecework shares`: how much of the grid keys and shares may use at a time."""

from typing import Annotated, Any
from uuid import UUID

import typer

from piecework.cli import names, refs
from piecework.cli.options import All, KeyId, Limit
from piecework.cli.session import Session, command, group
from piecework.shapes import KeyUse, Share, ShareUse

ShareName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=names.shares)]
Reset = Annotated[bool, typer.Option("--reset", help="Forget the quotas that are not given; else they stay.")]


def show(session: Session, key_id: Annotated[UUID | None, refs.KEY.argument(metavar="[KEY]"), refs.KEY] = None) -> None:
    """Show what a key, without KEY your own, may use, and uses."""
    client = session.client
    use = client.get_own_quotas() if key_id is None else client.get_key_quotas(str(key_id))
    session.show(use, lambda use: _show(session, use))


def set_key(
    session: Session,
    key_id: KeyId,
    requests_per_second: Annotated[float | None, typer.Option(metavar="N", help="To each process of the API.")] = None,
    jobs_max: Annotated[int | None, typer.Option(min=0, metavar="N", help="Jobs that have not ended.")] = None,
    tasks_max: Annotated[int | None, typer.Option(min=0, metavar="N", help="Tasks of these jobs.")] = None,
    schedules_max: Annotated[int | None, typer.Option(min=0, metavar="N", help="Schedules.")] = None,
    triggers_max: Annotated[int | None, typer.Option(min=0, metavar="N", help="Triggers.")] = None,
    upload_bytes_max: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Bytes of uploads that are not completed.")
    ] = None,
    upload_bytes_day_max: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Bytes of all uploads of a day.")
    ] = None,
    reset: Reset = False,
) -> None:
    """Give a key quotas of its own."""
    given = {
        "requests_per_second": requests_per_second,
        "jobs_max": jobs_max,
        "tasks_max": tasks_max,
        "schedules_max": schedules_max,
        "triggers_max": triggers_max,
        "upload_bytes_max": upload_bytes_max,
        "upload_bytes_day_max": upload_bytes_day_max,
    }
    before: Any = {} if reset else session.client.get_key_quotas(str(key_id))["own"]
    session.show(session.client.set_key_quotas(str(key_id), _changed(before, given)), lambda use: _show(session, use))


def list_shares(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List the shares that have quotas of their own."""
    session.show_list(session.client.list_shares(), everything, limit, lambda shares: _show_shares(session, shares))


def show_share(session: Session, name: ShareName) -> None:
    """Show what the jobs of a share may use together, and use."""
    session.show(session.client.get_share(name), lambda use: _show(session, use))


def set_share(
    session: Session,
    name: ShareName,
    jobs_max: Annotated[int | None, typer.Option(min=0, metavar="N", help="Jobs that have not ended.")] = None,
    tasks_max: Annotated[int | None, typer.Option(min=0, metavar="N", help="Tasks of these jobs.")] = None,
    priority_max: Annotated[int | None, typer.Option(metavar="N", help="Highest priority of a job.")] = None,
    reset: Reset = False,
) -> None:
    """Give a share quotas of its own."""
    given = {"jobs_max": jobs_max, "tasks_max": tasks_max, "priority_max": priority_max}
    before: Any = {} if reset else session.client.get_share(name)["own"]
    session.show(session.client.set_share(name, _changed(before, given)), lambda use: _show(session, use))


def _changed(before: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Quotas as they become: what is given, and what stays."""
    return {name: value for name, value in {**before, **_told(given)}.items() if value is not None}


def _told(quotas: Any) -> dict[str, Any]:
    return {name: value for name, value in quotas.items() if value is not None}


def _show(session: Session, use: KeyUse | ShareUse) -> None:
    from piecework.display import table

    own = _told(use["own"])
    rows = [
        (
            quota["name"],
            f"{quota['limit']:,.10g}",
            None if quota["used"] is None else f"{quota['used']:,.10g}",
            "own" if quota["name"] in own else "default",
        )
        for quota in use["quotas"]
    ]
    table(session.out, ["QUOTA", ">LIMIT", ">?USED", "FROM"], rows)


def _show_shares(session: Session, shares: list[Share]) -> None:
    from piecework.display import table

    owns = [(share["name"], share["own"]) for share in shares]
    rows = [(name, own.get("jobs_max"), own.get("tasks_max"), own.get("priority_max")) for name, own in owns]
    table(session.out, ["~SHARE", ">?JOBS MAX", ">?TASKS MAX", ">?PRIORITY MAX"], rows)


def register(app: typer.Typer) -> None:
    quotas = group(app, "quotas", "What keys may use at a time.")
    command(quotas, "show")(show)
    command(quotas, "set")(set_key)
    shares = group(app, "shares", "What the jobs of a share may use together.")
    command(shares, "list")(list_shares)
    command(shares, "show")(show_share)
    command(shares, "set")(set_share)
