"""`piecework keys`: who may do what."""

from typing import Annotated
from uuid import UUID

import typer

from piecework.cli.options import All, Limit
from piecework.cli.session import Session, command, group
from piecework.shapes import ApiKey, CreatedApiKey, Role


def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose or what for.")],
    role: Annotated[Role, typer.Option(help="viewer reads; submitter also submits; operator also runs the grid.")],
) -> None:
    """Make an API key and print it."""
    session.show(session.client.create_api_key(name, role), lambda key: _show_new(session, key))


def _show_new(session: Session, key: CreatedApiKey) -> None:
    print(key["secret"])
    session.note(f"key {key['key_id']} ({key['role']}); it is shown only now")


def list_keys(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List API keys, without their secrets."""
    session.show_list(session.client.list_api_keys(), everything, limit, lambda keys: _show_list(session, keys))


def _show_list(session: Session, keys: list[ApiKey]) -> None:
    from piecework.display import relative, table

    now = session.client.now()
    table(
        session.out,
        ["KEY_ID", "~NAME", "ROLE", "?CREATED", "REVOKED"],
        (
            (
                key["key_id"],
                key["name"],
                key["role"],
                relative(key["created_at"], now),
                relative(key["revoked_at"], now),
            )
            for key in keys
        ),
    )


def revoke(session: Session, key_id: Annotated[UUID, typer.Argument(metavar="KEY_ID")]) -> None:
    """End a key for good."""
    session.client.revoke_api_key(key_id)
    session.show_done(f"revoked {key_id}")


def register(app: typer.Typer) -> None:
    keys = group(app, "keys", "API keys and their roles.")
    command(keys, "create")(create)
    command(keys, "list")(list_keys)
    command(keys, "revoke")(revoke)
