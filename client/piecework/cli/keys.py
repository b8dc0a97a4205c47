"""`piecework keys`, `whoami` and `audit`: who may do what, and who did."""

import json
from datetime import datetime
from typing import Annotated

import typer

from piecework.cli.options import All, KeyId, Limit, Since
from piecework.cli.output import parse_time
from piecework.cli.session import Session, command, group, parse_pairs
from piecework.shapes import ApiKey, AuditEntry, AuditOutcome, CreatedApiKey, Role

ROLES = (
    "viewer reads; submitter also submits, and controls what is its own; developer also registers processors; operator "
    "runs the grid."
)


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses the key.")],
    role: Annotated[Role, typer.Option(help=ROLES)],
    principal: Annotated[str | None, typer.Option(help="Whose it is, if other keys are, too; else NAME.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="It controls what belongs to others, too.")] = False,
    share: Annotated[list[str] | None, typer.Option(help="It sees and submits only this share; repeatable.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="It sees only jobs with this label; its own get it.")
    ] = None,
    pool: Annotated[list[str] | None, typer.Option(help="It submits only to this pool; repeatable.")] = None,
    priority_max: Annotated[int | None, typer.Option(help="The highest priority of its jobs (0 unless --all).")] = None,
    expires_at: Annotated[str | None, typer.Option(metavar="TIME", help="When it ends: 2027-01-31T00:00:00Z.")] = None,
) -> None:
    """Make an API key and print it."""
    key = session.client.create_api_key(
        name,
        role,
        principal=principal,
        all=everything,
        shares=share,
        labels=parse_pairs("--label", label) or None,
        pools=pool,
        priority_max=priority_max,
        expires_at=expires_at,
    )
    session.show(key, lambda key: _show_new(session, key))


def _show_new(session: Session, key: CreatedApiKey) -> None:
    print(key["secret"])
    session.note(f"key {key['key_id']} ({key['role']}) of {key.get('principal', key['name'])}; it is shown only now")


def list_keys(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List API keys, without their secrets."""
    session.show_list(session.client.list_api_keys(), everything, limit, lambda keys: _show_list(session, keys))


def _show_list(session: Session, keys: list[ApiKey]) -> None:
    from piecework.display import relative, table

    now = session.client.now()
    table(
        session.out,
        ["KEY_ID", "~NAME", "~?PRINCIPAL", "ROLE", "REVOKED", "?EXPIRES", "?LAST USED", "~?LIMITS", "?CREATED"],
        (
            (
                key["key_id"],
                key["name"],
                key.get("principal"),  # an older server tells neither this nor the limits
                key["role"],
                relative(key["revoked_at"], now),
                relative(key.get("expires_at"), now),
                relative(key.get("last_used_at"), now),
                _describe_limits(key) or None,
                relative(key["created_at"], now),
            )
            for key in keys
        ),
    )


def _describe_limits(key: ApiKey) -> str:
    """`all, shares a and b, label team=x, pool large, priority up to 10`."""
    limits = ["all"] if key.get("all") else []
    limits += [f"share {share}" for share in key.get("shares", [])]
    limits += [f"label {name}={value}" for name, value in key.get("labels", {}).items()]
    limits += [f"pool {pool}" for pool in key.get("pools", [])]
    if key.get("priority_max") is not None:
        limits.append(f"priority up to {key['priority_max']}")
    return ", ".join(limits)


def revoke(session: Session, key_id: KeyId) -> None:
    """Revoke a key; it can't be used again."""
    session.client.revoke_api_key(key_id)
    session.show_done(f"revoked {key_id}")


def whoami(session: Session) -> None:
    """Show your own key: whose it is, and what it may do."""
    session.show(session.client.get_me(), lambda key: _show_me(session, key))


def _show_me(session: Session, key: ApiKey) -> None:
    from piecework.display import facts, moment

    now = session.client.now()
    facts(
        session.out,
        [
            ("principal", key["principal"]),
            ("role", key["role"]),
            ("key", f"{key['name']} ({key['key_id']})"),
            ("limits", _describe_limits(key)),
            ("expires", moment(key["expires_at"], now)),
            ("created", moment(key["created_at"], now)),
        ],
    )


def audit(
    session: Session,
    principal: Annotated[str | None, typer.Option(help="Only what this principal did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this operation, such as cancel_job.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only of this: the id of a job, the name of a pool…")] = None,
    outcome: Annotated[AuditOutcome | None, typer.Option(help="Only what was done, or only what was refused.")] = None,
    since: Since = None,
    until: Annotated[datetime | None, typer.Option(parser=parse_time, metavar="TIME", help="Before this time.")] = None,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List who changed what, when and from where, newest first."""
    listing = session.client.list_audit(
        principal=principal,
        action=action,
        subject=subject,
        outcome=outcome,
        since=since.isoformat() if since else None,
        until=until.isoformat() if until else None,
    )
    session.show_list(listing, everything, limit, lambda entries: _show_audit(session, entries))


def _show_audit(session: Session, entries: list[AuditEntry]) -> None:
    from piecework.display import moment, table

    now = session.client.now()
    table(
        session.out,
        ["AT", "~PRINCIPAL", "~ACTION", "OUTCOME", "~SUBJECT", "?ROLE", "?ADDRESS", "~?SUMMARY"],
        (
            (
                moment(entry["at"], now),
                entry["principal"],
                entry["action"],
                entry["outcome"],
                f"{entry['subject_kind']} {entry['subject'] or ''}",
                entry["role"],
                entry["address"],
                json.dumps(entry["summary"], ensure_ascii=False) if entry["summary"] else None,
            )
            for entry in entries
        ),
    )


def register(app: typer.Typer) -> None:
    command(app, "whoami")(whoami)
    command(app, "audit")(audit)
    keys = group(app, "keys", "API keys and their roles.")
    command(keys, "create")(create)
    command(keys, "list")(list_keys)
    command(keys, "revoke")(revoke)
