"""`piecework retention`: how long what jobs leave is kept."""

from typing import Annotated

import typer

from piecework.cli import names
from piecework.cli.options import All, Limit
from piecework.cli.session import Session, command, group, parse_pairs
from piecework.shapes import Keep, RetentionRule

RuleName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=names.rules)]
Duration = Annotated[str | None, typer.Option(metavar="DURATION", help="Such as 90d, or forever.")]


def list_rules(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List the rules; for each part of a job the longest that holds for its labels counts, else `default`."""
    listing = session.client.list_retention_rules()
    session.show_list(listing, everything, limit, lambda rules: _show(session, rules))


def show_rule(session: Session, name: RuleName) -> None:
    """Show a rule."""
    session.show(session.client.get_retention_rule(name), lambda rule: _show(session, [rule]))


def put_rule(
    session: Session,
    name: RuleName,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label that jobs must have; repeatable.")
    ] = None,
    interim: Duration = None,
    results: Duration = None,
    records: Duration = None,
) -> None:
    """Add or replace a rule: `default`, or one for jobs with labels. Times count from a job's end."""
    given = {"interim": interim, "results": results, "records": records}
    keep = {part: value for part, value in given.items() if value is not None}
    rule = session.client.put_retention_rule(name, keep, labels=parse_pairs("--label", label))
    session.show(rule, lambda rule: _show(session, [rule]))


def delete_rule(session: Session, name: RuleName) -> None:
    """Delete a rule."""
    session.client.delete_retention_rule(name)
    session.show_done(f"deleted {name}")


def _show(session: Session, rules: list[RetentionRule]) -> None:
    from piecework.display import table

    rows = [
        (
            rule["name"],
            ", ".join(f"{key}={value}" for key, value in rule["labels"].items()),
            *(_describe(rule["keep"], part) for part in ("interim", "results", "records")),
        )
        for rule in rules
    ]
    table(session.out, ["~RULE", "~?LABELS", "?INTERIM", "?RESULTS", "?RECORDS"], rows)


def _describe(keep: Keep, part: str) -> str | None:
    """`forever`, `90d`, `1.5d`."""
    value = keep.get(part)
    return f"{value / 86_400:g}d" if isinstance(value, int | float) else str(value) if value is not None else None


def register(app: typer.Typer) -> None:
    retention = group(app, "retention", "How long what jobs leave is kept.")
    command(retention, "list")(list_rules)
    command(retention, "show")(show_rule)
    command(retention, "put")(put_rule)
    command(retention, "delete")(delete_rule)
